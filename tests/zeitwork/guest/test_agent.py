"""The guest's agent, run on this machine under the sanitizers: requests, commands, terminals, credit, lost hosts."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from actors.vm.agent.wire import (
    INITIAL_CREDIT,
    MAX_PAYLOAD,
    MAX_SESSIONS,
    TOKEN_BYTES,
    VERSION,
    Frame,
    Kind,
    parse_records,
    records,
)
from actors.vm.config_drive import encode
from tests.actors.vm.test_config_drive import PLAIN
from tests.zeitwork.guest.agent_host import PATIENCE, AgentClient, agent_host, connected

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: commands become their user as in a guest")
STATISTICS = {
    "uptime_ms",
    "load_1m_milli",
    "processes",
    "memory_total_kib",
    "memory_available_kib",
    "disk_total_kib",
    "disk_used_kib",
    "network_received_bytes",
    "network_sent_bytes",
    "cpu_user_ms",
    "cpu_system_ms",
    "cpu_idle_ms",
    "oom_kills",
    "app_pid",
}


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with agent_host(tmp_path_factory.mktemp("agent")) as path:
        yield path


@pytest.fixture
def host(agent: Path) -> Iterator[AgentClient]:
    with connected(agent) as client:
        client.hello()
        yield client


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def number(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "little")


def test_requests_are_answered_in_order(host: AgentClient) -> None:
    host.send(Kind.PING, 0, number(1, 8))
    host.send(Kind.STATISTICS)
    host.send(Kind.PING, 0, number(2, 8))
    answers = [host.receive() for _ in range(3)]
    assert [answer.kind for answer in answers] == [Kind.PONG, Kind.STATISTICS_BACK, Kind.PONG]
    assert [answers[0].payload[:8], answers[2].payload[:8]] == [number(1, 8), number(2, 8)]
    assert int.from_bytes(answers[0].payload[8:], "little") <= int.from_bytes(answers[2].payload[8:], "little")


def test_statistics(host: AgentClient) -> None:
    found = {name: int(value) for name, value in parse_records(host.request(Kind.STATISTICS)).items()}
    assert set(found) == STATISTICS
    memory, disk = psutil.virtual_memory(), psutil.disk_usage("/")
    assert found["memory_total_kib"] == memory.total // 1024
    assert 0 < found["memory_available_kib"] <= found["memory_total_kib"]
    assert found["disk_total_kib"] == disk.total // 1024
    assert 0 < found["disk_used_kib"] < found["disk_total_kib"]
    cpu = psutil.cpu_times()
    assert 0 < found["cpu_user_ms"] <= (cpu.user + cpu.nice + 1) * 1000
    assert 0 < found["cpu_idle_ms"] <= (cpu.idle + cpu.iowait + 1) * 1000
    assert found["processes"] > 1
    traffic = psutil.net_io_counters(pernic=True).get("eth0")
    if traffic is not None:
        assert 0 < found["network_received_bytes"] <= traffic.bytes_recv + 1_000_000_000
        assert found["network_sent_bytes"] > 0


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (Kind.PING, b"1234567"),
        (Kind.THAW, b""),
        (Kind.ENTROPY, b""),
        (Kind.ENTROPY, bytes(513)),
        (Kind.IDENTITY, bytes(8)),
        (Kind.HELLO, bytes(17)),
        (9, b"from a newer host"),
        (Kind.OPEN, b"end=\0"),
        (200, b""),
    ],
)
def test_a_request_that_is_none_gets_an_error_and_the_next_one_its_answer(
    host: AgentClient, kind: int, payload: bytes
) -> None:
    host.send(kind, 0, payload)
    answer = host.receive()
    assert (answer.kind, answer.session, answer.payload[0]) == (Kind.ERROR, 0, kind)
    assert answer.payload[1:].isascii()
    host.ping()


def test_freeze_and_thaw(host: AgentClient) -> None:
    assert host.hello() == 0
    host.request(Kind.FREEZE)
    assert host.hello() == 1
    assert host.refusal(1, "true") == "the guest is frozen"
    host.request(Kind.FREEZE)
    host.request(Kind.THAW, number(0, 8))
    host.request(Kind.THAW, number(0, 8))
    assert host.hello() == 0


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


def test_frames_for_no_session_are_ignored(host: AgentClient) -> None:
    for kind in (Kind.DATA, Kind.EOF, Kind.RESIZE, Kind.SIGNAL, Kind.CREDIT, Kind.CLOSE, Kind.PING, 99, 255):
        host.send(kind, 77, b"12345678")
    host.ping()


def test_nothing_is_done_before_the_greeting(agent: Path, tmp_path: Path) -> None:
    with connected(agent) as client:
        client.send_open(1, "touch", str(tmp_path / "made"))
        client.send(Kind.PING, 0, bytes(8))
        token = os.urandom(TOKEN_BYTES)
        client.send(Kind.HELLO, 0, token + number(VERSION, 2))
        assert client.receive() == Frame(Kind.HELLO_BACK, 0, token + number(VERSION, 2) + bytes(2))
        client.run("true")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("garbage", [b"\x01\x01\0\0\0\0\0\0", b"\x01\0\x01\x40\0\0\0\0", b"\xff" * 9000])
def test_what_is_no_frame_ends_the_connection(agent: Path, garbage: bytes) -> None:
    with connected(agent) as client:
        client.hello()
        with pytest.raises((EOFError, ConnectionError)):
            client.connection.sendall(garbage)
            client.receive()
    with connected(agent) as client:
        client.hello()


def test_a_greeting_ends_any_unfinished_frame(agent: Path) -> None:
    for length in (1, 100, MAX_PAYLOAD):
        with connected(agent) as client:
            frame = Frame(Kind.OPEN, 1, bytes(length)).encode()
            for cut in (1, 7, 8, len(frame) - 1):
                client.connection.sendall(frame[:cut])
                client.hello()


def parts(drive: bytes, size: int = MAX_PAYLOAD - 8) -> Iterator[bytes]:
    for offset in range(0, len(drive), size):
        yield number(len(drive)) + number(offset) + drive[offset : offset + size]


def take_on(host: AgentClient, drive: bytes, size: int = MAX_PAYLOAD - 8) -> None:
    for part in parts(drive, size):
        host.request(Kind.IDENTITY, part)


def test_later_commands_have_the_new_environment_of_another_identity(host: AgentClient) -> None:
    config = dataclasses.replace(PLAIN, hostname="another", env={"APP": "moved", "BULK": "x" * 100_000}, user="0:0")
    take_on(host, encode(config))
    assert host.run("sh", "-c", "echo $APP $HOSTNAME ${#BULK}", cwd="/")[0] == b"moved another 100000\n"
    with pytest.raises(AssertionError, match="cannot move to immovable"):
        take_on(host, encode(dataclasses.replace(config, hostname="immovable", env={"APP": "lost"})))
    assert host.run("sh", "-c", "echo $APP $HOSTNAME", cwd="/")[0] == b"moved another\n"
    take_on(host, encode(dataclasses.replace(config, env={"APP": "native", "COLOUR": "blue"})), size=100)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (number(8) + number(0) + b"x", "a config drive of 8 bytes"),
        (number(2**21) + number(0) + b"x", "a config drive of 2097152 bytes"),
        (number(2**32 - 1) + number(0) + b"x", "a config drive of 4294967295 bytes"),
        (number(100) + number(5) + b"x", "does not follow"),
        (number(16) + number(0) + bytes(17), "does not follow"),
        (number(16) + number(2**32 - 1) + bytes(17), "does not follow"),
        (number(16) + number(0) + bytes(16), "not a config drive of version 1"),
        (number(512) + number(0) + encode(PLAIN).replace(b"hello", b"hullo"), "checksum"),
    ],
)
def test_a_damaged_identity_changes_nothing(host: AgentClient, payload: bytes, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        host.request(Kind.IDENTITY, payload)
    host.ping()


def test_an_identity_begun_by_an_earlier_host_is_dropped(host: AgentClient) -> None:
    first, second, *_ = parts(encode(PLAIN), 100)
    host.request(Kind.IDENTITY, first)
    host.hello()
    with pytest.raises(AssertionError, match="does not follow"):
        host.request(Kind.IDENTITY, second)


def test_the_records_of_a_request_may_fill_a_frame(host: AgentClient) -> None:
    many = ["x"] * ((MAX_PAYLOAD - len(records([("arg", "echo"), ("end", "")]))) // 6)
    host.open(1, "echo", *many)
    assert host.finish(1)[0].split() == [b"x"] * len(many)


def test_it_sleeps_while_nothing_happens(agent: Path) -> None:
    with connected(agent) as client:
        client.hello()
        client.open(1, "sleep", "1000")
        process = _process(client)
        time.sleep(2.5)  # so that what was left by earlier tests has ended
        before = process.num_ctx_switches().voluntary
        time.sleep(3)
        # Its loop here wakes once a second to be sure; the init's does not.
        assert process.num_ctx_switches().voluntary - before < 15


def _process(client: AgentClient) -> psutil.Process:
    return psutil.Process(int(parse_records(client.request(Kind.STATISTICS))["app_pid"]))
