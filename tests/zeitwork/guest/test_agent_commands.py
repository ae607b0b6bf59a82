"""Commands that the agent runs, on this machine under the sanitizers: terminals, credit, signals, lost hosts."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from actors.vm.agent.wire import (
    INITIAL_CREDIT,
    MAX_PAYLOAD,
    MAX_SESSIONS,
    Kind,
    records,
)
from tests.zeitwork.guest.agent_host import PATIENCE, AgentClient, connected

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: commands become their user as in a guest")


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def number(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "little")


def test_a_command_with_its_environment_user_and_directory(host: AgentClient) -> None:
    script = "id -un; pwd; echo $APP $COLOUR $EMPTY-$TWICE; echo oops >&2; exit 7"
    output, errors, end = host.run(
        "sh", "-c", script, user="nobody", cwd="/tmp", env="COLOUR=red\nEMPTY=\nTWICE=1\nTWICE=2"
    )
    assert output.decode().split("\n") == ["nobody", "/tmp", "native red -2", ""]
    assert errors == b"oops\n"
    assert end == (0, 7)


def test_home_is_that_of_the_user(host: AgentClient) -> None:
    assert host.run("sh", "-c", "echo $HOME", user="nobody")[0] == b"/nonexistent\n"
    assert host.run("sh", "-c", "echo $HOME")[0] == b"/root\n"
    assert host.run("sh", "-c", "echo $HOME", env="HOME=/elsewhere")[0] == b"/elsewhere\n"


def test_a_command_runs_in_a_session_of_its_own_with_no_signal_blocked(host: AgentClient) -> None:
    output, _errors, end = host.run("sh", "-c", "cat /proc/self/stat; cat /proc/self/status; ls /proc/self/fd | wc -l")
    assert end == (0, 0)
    status = dict(line.split(":\t", 1) for line in output.decode().splitlines() if ":\t" in line)
    assert int(status["SigBlk"], 16) == int(status["SigIgn"], 16) == 0
    _pid, _name, _state, _parent, group, session, terminal = output.split()[:7]
    assert (group, terminal) == (session, b"0")
    assert output.split()[-1] == b"4", "descriptors of the agent were inherited"


@pytest.mark.parametrize(("script", "end"), [("exit 255", (0, 255)), ("kill -SEGV $$", (1, 11)), ("kill $$", (1, 15))])
def test_how_a_command_ended(host: AgentClient, script: str, end: tuple[int, int]) -> None:
    assert host.run("sh", "-c", script)[2] == end


@pytest.mark.parametrize(
    ("argv", "options", "message"),
    [
        (("no-such-command",), {}, "command not found: no-such-command (searched in PATH=/usr/local/sbin"),
        (("/etc/passwd",), {}, "permission denied: /etc/passwd"),
        (("/etc",), {}, "permission denied: /etc"),
        (("true",), {"user": "nobody-here"}, 'the image has no user "nobody-here"'),
        (("true",), {"cwd": "/missing"}, "cannot enter the working directory /missing: No such file"),
        (("true",), {"cwd": "relative"}, "not an absolute path"),
        (("true",), {"env": "nothing"}, "an environment entry has no name"),
        (("true",), {"env": "=value"}, "an environment entry has no name"),
        (("true",), {"tty": "1", "rows": "99999"}, "rows is not a number"),
        (("true",), {"tty": "1", "cols": "-1"}, "cols is not a number"),
        ((), {}, "there is no command to run"),
        (("",), {}, "there is no command to run"),
    ],
)
def test_a_command_that_can_not_be_run_says_why(
    host: AgentClient, argv: tuple[str, ...], options: dict[str, str], message: str
) -> None:
    assert message in host.refusal(3, *argv, **options)
    assert host.run("echo", "next", session=3)[0] == b"next\n"


@pytest.mark.parametrize(
    "payload", [b"", b"arg=true\0", b"arg=true\0end=", b"end=\0arg=true\0", b"arg=true\0end=x\0", b"\0" * 50]
)
def test_a_request_that_was_cut_is_not_run(host: AgentClient, payload: bytes) -> None:
    host.send(Kind.OPEN, 4, payload)
    assert host.wait_for(Kind.REFUSED, Kind.STARTED, session=4).payload == b"the request was cut"


def test_standard_input_reaches_the_command_and_credit_comes_back(host: AgentClient) -> None:
    text = os.urandom(1_000_000)
    host.open(1, "cat")
    sent, taken, credit = 0, b"", INITIAL_CREDIT
    while len(taken) < len(text):
        while sent < len(text) and credit > 0:
            part = text[sent : sent + min(credit, MAX_PAYLOAD)]
            host.send(Kind.DATA, 1, part)
            sent += len(part)
            credit -= len(part)
        frame = host.wait_for(Kind.OUTPUT, Kind.CREDIT_BACK, session=1)
        if frame.kind == Kind.CREDIT_BACK:
            credit += int.from_bytes(frame.payload, "little")
        else:
            taken += frame.payload
            host.send(Kind.CREDIT, 1, number(len(frame.payload)))
    host.send(Kind.EOF, 1)
    assert host.finish(1) == (b"", b"", (0, 0))
    assert taken == text


def test_input_that_nobody_reads_is_credited_and_thrown_away(host: AgentClient) -> None:
    host.open(1, "sh", "-c", "exec <&-; echo closed; sleep 1000")
    host.read_until(1, b"closed")
    credit = 0
    for _ in range(20):
        host.send(Kind.DATA, 1, bytes(MAX_PAYLOAD))
        while credit < MAX_PAYLOAD:
            credit += int.from_bytes(host.wait_for(Kind.CREDIT_BACK, session=1).payload, "little")
        credit -= MAX_PAYLOAD
    host.send(Kind.SIGNAL, 1, bytes([signal.SIGKILL]))
    assert host.finish(1)[2] == (1, 9)


def test_more_input_than_was_granted_ends_the_command(host: AgentClient) -> None:
    host.open(1, "sleep", "1000")
    for _ in range(10):  # one pipe takes four of these, the credit is four more
        host.send(Kind.DATA, 1, bytes(MAX_PAYLOAD))
    assert host.finish(1)[2] == (1, signal.SIGHUP)


def test_a_flood_stays_within_its_credit_and_does_not_hold_up_the_heartbeat(host: AgentClient) -> None:
    host.open(1, "yes")
    host.open(2, "sh", "-c", "exec yes >&2")
    counts = {1: 0, 2: 0}
    while sum(counts.values()) < 2 * INITIAL_CREDIT:
        frame = host.wait_for(Kind.OUTPUT, Kind.ERRORS, session=None)
        counts[frame.session] += len(frame.payload)
    assert counts == {1: INITIAL_CREDIT, 2: INITIAL_CREDIT}
    for _ in range(50):
        host.send(Kind.PING, 0, number(9, 8))
        assert host.receive().kind == Kind.PONG, "output beyond the credit"
    host.send(Kind.CREDIT, 2, number(10))
    frame = host.receive()
    assert (frame.kind, frame.session, len(frame.payload)) == (Kind.ERRORS, 2, 10)
    for session in (1, 2):
        host.send(Kind.CLOSE, session)
        assert host.finish(session)[2][0] == 1


def test_a_host_that_reads_nothing_does_not_keep_a_second_one_out(agent: Path, host: AgentClient) -> None:
    for session in range(1, 5):
        host.send_open(session, "yes")
    host.connection.settimeout(1)
    with contextlib.suppress(TimeoutError, ConnectionError):
        while True:
            host.send(Kind.PING, 0, number(1, 8))
    with connected(agent) as other:
        other.hello()
        assert other.run("echo", "heard")[0] == b"heard\n"


def test_output_after_the_end_of_a_command_whose_host_is_slow_is_not_lost(host: AgentClient) -> None:
    size = INITIAL_CREDIT + 60_000
    host.open(1, "sh", "-c", f"head -c {size} /dev/zero")
    taken = 0
    while taken < INITIAL_CREDIT:
        taken += len(host.wait_for(Kind.OUTPUT, session=1).payload)
    time.sleep(1.5)  # longer than a session lingers for others that hold its output open
    host.send(Kind.CREDIT, 1, number(size))
    output, _errors, end = host.finish(1)
    assert (taken + len(output), end) == (size, (0, 0))


def test_what_still_holds_the_output_open_does_not_hold_up_the_end(host: AgentClient) -> None:
    output, _errors, end = host.run("sh", "-c", "sleep 1000 & echo $!; exit 5")
    assert end == (0, 5)
    assert psutil.pid_exists(int(output)), "what goes on in the background was ended"
    os.kill(int(output), signal.SIGKILL)
    output, _errors, end = host.run("sh", "-c", "yes & echo $! >&2; exit 6")
    assert end == (0, 6)


def test_a_terminal(host: AgentClient) -> None:
    host.open(1, "sh", tty="1", rows="33", cols="99", env="PS1=@ \nTERM=dumb")
    host.read_until(1, b"@ ")
    host.send(Kind.DATA, 1, b"stty size; tty; echo $TERM\n")
    seen = host.read_until(1, b"dumb\r\n")
    assert b"33 99\r\n/dev/pts/" in seen
    host.send(Kind.RESIZE, 1, number(50, 2) + number(132, 2))
    host.send(Kind.DATA, 1, b"stty size\n")
    assert b"50 132" in host.read_until(1, b"132")
    host.send(Kind.DATA, 1, b"sed -u s/e/E/\n")
    host.send(Kind.DATA, 1, b"echoed\n")
    host.read_until(1, b"Echoed\r\n")
    host.send(Kind.DATA, 1, b"\x03")
    host.read_until(1, b"@ ")
    host.send(Kind.DATA, 1, b"echo status $?\n")
    host.read_until(1, b"status 130\r\n")
    host.send(Kind.DATA, 1, b"echo err >&2; exit 3\n")
    output, errors, end = host.finish(1)
    assert b"err\r\n" in output
    assert (errors, end) == (b"", (0, 3))


def test_a_terminal_belongs_to_its_user_and_end_of_input_is_its_own(host: AgentClient) -> None:
    host.open(1, "sh", "-c", "stat -c %U $(tty); cat; echo ended", tty="1", user="nobody")
    host.read_until(1, b"nobody")
    host.send(Kind.DATA, 1, b"text\n")
    host.send(Kind.EOF, 1)
    output, _errors, end = host.finish(1)
    assert output.endswith(b"text\r\ntext\r\nended\r\n")
    assert end == (0, 0)


def test_signals_go_to_the_foreground(host: AgentClient) -> None:
    host.open(1, "sh", "-c", "trap 'echo usr; exit 9' USR1; echo up; while :; do sleep 0.05; done")
    host.read_until(1, b"up")
    for wrong in (b"", b"\0", b"\x41", b"\xff"):
        host.send(Kind.SIGNAL, 1, wrong)
    host.send(Kind.SIGNAL, 1, bytes([signal.SIGUSR1]))
    output, _errors, end = host.finish(1)
    assert output == b"usr\n"
    assert end in {(0, 9), (1, signal.SIGUSR1)}  # its sleep gets the signal too
    host.open(2, "sh", tty="1", env="PS1=@ ")
    host.send(Kind.DATA, 2, b"set -m; sleep 1000\n")
    host.read_until(2, b"sleep 1000\r\n")
    shell = host.open(3, "sleep", "1000")
    host.send(Kind.SIGNAL, 3, bytes([signal.SIGTERM]))
    assert host.finish(3)[2] == (1, signal.SIGTERM)
    assert not psutil.pid_exists(shell)
    host.send(Kind.CLOSE, 2)
    host.finish(2)


def test_close_ends_everything_in_the_session(host: AgentClient) -> None:
    script = "trap '' HUP; sleep 1000 & echo $!; (trap '' HUP; sh -c 'echo $PPID; sleep 1000'; true) & wait; wait"
    pid = host.open(1, "sh", "-c", script)
    lines = b""
    while lines.count(b"\n") < 2:
        lines += host.wait_for(Kind.OUTPUT, session=1).payload
    others = [int(line) for line in lines.split()]
    host.send(Kind.CLOSE, 1)
    host.send(Kind.CLOSE, 1)
    host.ping()
    assert host.finish(1)[2] == (1, signal.SIGKILL), "SIGHUP was ignored"
    for process in (pid, *others):
        eventually(lambda process=process: not _lives(process))  # type: ignore[misc]


def _lives(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def test_a_shell_that_is_asked_to_hang_up_ends_by_that(host: AgentClient) -> None:
    host.open(1, "sh", tty="1", env="PS1=@ ")
    host.read_until(1, b"@ ")
    host.send(Kind.CLOSE, 1)
    assert host.finish(1)[2] == (1, signal.SIGHUP)


@pytest.mark.parametrize("how", ["end", "replace", "hello"])
def test_commands_end_with_their_host(agent: Path, how: str) -> None:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(connected(agent))
        first.hello()
        pids = [first.open(session, "sh", "-c", "trap '' HUP; echo up; read x; sleep 1000") for session in (1, 2)]
        for session in (1, 2):
            first.wait_for(Kind.OUTPUT, session=session)
        if how == "end":
            first.connection.close()
        other = first if how == "hello" else stack.enter_context(connected(agent))
        other.hello()
        assert other.run("echo", "same number", session=1)[0] == b"same number\n"
        for pid in pids:
            eventually(lambda pid=pid: not _lives(pid))  # type: ignore[misc]
        if how == "replace":
            with pytest.raises((EOFError, ConnectionError)):
                while True:
                    first.receive()


def test_so_many_commands_and_no_more(host: AgentClient) -> None:
    for session in range(1, MAX_SESSIONS + 1):
        host.open(session, "cat")
    assert "too many commands" in host.refusal(99, "true")
    assert "with this number runs already" in host.refusal(1, "true")
    host.send(Kind.EOF, 7)
    assert host.finish(7)[2] == (0, 0)
    assert host.run("echo", "again", session=7)[0] == b"again\n"
    for round in range(3):  # each round leaves sixteen that take two seconds to end
        host.hello()
        for session in range(1, MAX_SESSIONS + 1):
            host.open(session, "sh", "-c", "trap '' HUP; sleep 1000; sleep 1000", env=f"ROUND={round}")


def test_the_records_of_a_request_may_fill_a_frame(host: AgentClient) -> None:
    many = ["x"] * ((MAX_PAYLOAD - len(records([("arg", "echo"), ("end", "")]))) // 6)
    host.open(1, "echo", *many)
    assert host.finish(1)[0].split() == [b"x"] * len(many)
