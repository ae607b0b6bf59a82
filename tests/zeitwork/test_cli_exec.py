"""``zeitwork exec`` as people and scripts use it: a process, in a real terminal, against a real server and agent."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.vm.agent.command import CommandSpec
from actors.vm.agent.link import AgentLink
from runtime.environment import RealEnvironment
from tests.actors.vm.agent.peer import Guest
from tests.zeitwork.api.conftest import World
from tests.zeitwork.api.conftest import world as world
from tests.zeitwork.exec_world import RunningGuest, running_guest, running_instance
from zeitwork.cli.exec import exec_

ROOT = Path(__file__).parents[2]
LONG = 100.0
#: What no command writes.
MARK = b"\0this is the end\0"
#: Says when it is asked to end by Ctrl-C, at whatever moment that comes.
CATCHES = "trap 'echo caught; exit 4' INT; echo go; while :; do sleep 0.1; done"


@pytest.fixture
async def guest(world: World, tmp_path: Path) -> AsyncIterator[RunningGuest]:
    async with running_guest(world, tmp_path / "guest") as running:
        yield running


def command(world: World, *arguments: str) -> list[str]:
    options = ["--socket", str(world.deps.paths.api_socket)]
    return [sys.executable, "-m", "zeitwork", "exec", *options, *arguments]


def environment(**more: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "ZEITWORK_URL"} | more


async def run(
    world: World, *arguments: str, stdin: bytes | int = b"", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(LONG):
        return await trio.run_process(
            command(world, *arguments),
            cwd=ROOT,
            stdin=stdin,
            env=env or environment(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )


class Screen:
    """A command line in a terminal of its own, and the person before it."""

    def __init__(self, arguments: list[str], rows: int, cols: int, **more: Any) -> None:
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("<HHHH", rows, cols, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            arguments,
            cwd=ROOT,
            stdin=more.get("stdin", self.slave),
            stdout=self.slave,
            stderr=self.slave,
            env=environment(TERM="vt220"),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0),
        )
        self.seen = b""

    def read(self) -> None:
        if select.select([self.master], [], [], 0.05)[0]:
            self.seen += os.read(self.master, 65536)

    def read_rest(self) -> None:
        """Read what the process, which has ended, left in the terminal: all that comes before what is written now."""
        os.write(self.slave, MARK)
        end = time.monotonic() + LONG
        while MARK not in self.seen:
            assert time.monotonic() < end, self.seen
            self.read()
        self.seen = self.seen.replace(MARK, b"")

    def until(self, text: bytes) -> None:
        end = time.monotonic() + LONG
        while text not in self.seen:
            assert time.monotonic() < end, self.seen
            if self.process.poll() is None:
                self.read()
            else:
                self.read_rest()
                assert text in self.seen, self.seen

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def resize(self, rows: int, cols: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("<HHHH", rows, cols, 0, 0))

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    def end(self) -> int:
        """Return the exit status; the terminal is then as it was."""
        end = time.monotonic() + LONG
        while self.process.poll() is None:
            assert time.monotonic() < end, self.seen
            self.read()
        self.read_rest()
        assert termios.tcgetattr(self.slave) == self.before
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@contextmanager
def screen(world: World, *arguments: str, rows: int = 33, cols: int = 99, **more: Any) -> Iterator[Screen]:
    shown = Screen(command(world, *arguments), rows, cols, **more)
    try:
        yield shown
    finally:
        shown.close()


async def off(work: Any, *arguments: Any) -> Any:
    """Do blocking work beside the server."""
    return await trio.to_thread.run_sync(work, *arguments)


async def test_streams_apart_and_the_commands_status(guest: RunningGuest) -> None:
    done = await run(guest.world, "web", "--", "/bin/sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--", "true"), 0),
        (("--", "/bin/sh", "-c", "kill -TERM $$"), 143),
        (("--", "/bin/sh", "-c", "exit 255"), 255),
        (("--", "no-such-program"), 127),
        (("--", "/etc/passwd"), 126),
        (("--user", "no-such-user", "--", "true"), 126),
        (("--cwd", "/no/such/directory", "--", "true"), 126),
    ],
)
async def test_exit_statuses(guest: RunningGuest, arguments: tuple[str, ...], status: int) -> None:
    done = await run(guest.world, "web", *arguments)
    assert done.returncode == status, done.stderr
    if status in (126, 127):
        assert done.stderr.startswith(b"error: "), done.stderr
        assert b"fix: " in done.stderr


async def test_options_end_where_the_command_begins(guest: RunningGuest) -> None:
    for arguments in (
        ("web", "-eA=1", "-w", "/tmp", "/bin/sh", "-c", "echo $A-$#-$PWD-$1", "-t", "-i"),
        ("-e", "A=1", "web", "--cwd=/tmp", "--", "/bin/sh", "-c", "echo $A-$#-$PWD-$1", "-t", "-i"),
        ("-ie", "A=1", "--cwd", "/tmp", "web", "/bin/sh", "-c", "echo $A-$#-$PWD-$1", "-t", "-i"),
    ):
        done = await run(guest.world, *arguments)
        assert (done.returncode, done.stdout) == (0, b"1-1-/tmp--i\n"), (arguments, done.stderr)


async def test_input_is_passed_with_its_end_and_only_when_asked(guest: RunningGuest) -> None:
    sent = os.urandom(300_000)
    done = await run(guest.world, "web", "-i", "--", "cat", stdin=sent)
    assert (done.returncode, done.stdout == sent) == (0, True)
    done = await run(guest.world, "web", "--", "cat", stdin=sent)
    assert (done.returncode, done.stdout) == (0, b"")


async def test_input_from_a_file_and_from_nowhere(guest: RunningGuest, tmp_path: Path) -> None:
    file = await trio.Path(tmp_path / "input").write_bytes(b"from a file\n" * 10_000)
    with open(tmp_path / "input", "rb") as source:  # noqa: ASYNC230
        done = await run(guest.world, "web", "-i", "--", "wc", "-c", stdin=source.fileno())
    assert int(done.stdout) == file
    done = await run(guest.world, "web", "-i", "--", "cat", stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (0, b"")
    shell = ["/bin/sh", "-c", '"$@" <&-', "sh", *command(guest.world, "web", "-i", "--", "echo", "fine")]
    with trio.fail_after(LONG):
        closed = await trio.run_process(shell, cwd=ROOT, env=environment(), capture_stdout=True, check=False)
    assert (closed.returncode, closed.stdout) == (0, b"fine\n")


async def test_a_shell_takes_a_script(guest: RunningGuest) -> None:
    done = await run(guest.world, "web", stdin=b"echo one\necho two\nexit 3\n")
    assert (done.returncode, done.stdout) == (3, b"one\ntwo\n")


async def test_a_flood_is_whole_and_a_reader_may_leave(guest: RunningGuest) -> None:
    done = await run(guest.world, "web", "--", "head", "-c", "5000000", "/dev/zero")
    assert (done.returncode, len(done.stdout)) == (0, 5_000_000)
    pipe = ["/bin/sh", "-c", '"$@" | head -n 1', "sh", *command(guest.world, "web", "--", "yes")]
    with trio.fail_after(LONG):
        left = await trio.run_process(
            pipe, cwd=ROOT, env=environment(), capture_stdout=True, capture_stderr=True, check=False
        )
    assert (left.stdout, left.stderr) == (b"y\n", b"")
    await no_processes_left(guest)


async def no_processes_left(guest: RunningGuest) -> None:
    with trio.fail_after(LONG):
        while guest.world.app.state.exec_slots.taken:  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_json_for_programs(guest: RunningGuest) -> None:
    done = await run(guest.world, "web", "--json", "--", "/bin/sh", "-c", r"echo ö; printf '\377' >&2; exit 3")
    assert done.returncode == 3
    assert json.loads(done.stdout) == {"exit_status": 3, "stdout": "ö\n", "stderr": "\ufffd", "truncated": False}
    done = await run(guest.world, "web", "--json", "--", "head", "-c", "3000000", "/dev/zero")
    said = json.loads(done.stdout)
    assert (said["truncated"], len(said["stdout"]), said["exit_status"]) == (True, 1 << 20, 0)
    done = await run(guest.world, "web", "--json", "--", "no-such-program")
    assert done.returncode == 127
    assert json.loads(done.stderr)["error"]["code"] == "command-not-found"


async def test_an_interactive_shell(guest: RunningGuest) -> None:
    with screen(guest.world, "web", rows=33, cols=99) as shown:
        await off(shown.until, b"# " if os.geteuid() == 0 else b"$ ")
        assert shown.is_raw()
        shown.type(b"stty size; echo $TERM\r")
        await off(shown.until, b"33 99")
        await off(shown.until, b"vt220")
        shown.resize(44, 111)
        shown.type(b"sh -c 'while :; do stty size; sleep 0.1; done'\r")
        await off(shown.until, b"44 111")
        shown.type(b"\x03")
        shown.type(b"echo still h'e're\r")
        await off(shown.until, b"still here")
        shown.type(b"\x04")  # Ctrl-D
        assert await off(shown.end) == 0


async def test_a_terminal_for_one_command(guest: RunningGuest) -> None:
    with screen(guest.world, "-it", "web", "--", "/bin/sh", "-c", "tty; read line; echo got $line; exit 9") as shown:
        await off(shown.until, b"/dev/pts/")
        shown.type(b"words\r")
        await off(shown.until, b"got words")
        assert await off(shown.end) == 9


async def test_ctrl_c_in_a_raw_terminal_is_the_guests(guest: RunningGuest) -> None:
    with screen(guest.world, "-it", "web", "--", "/bin/sh", "-c", CATCHES) as shown:
        await off(shown.until, b"go")
        shown.type(b"\x03")
        await off(shown.until, b"caught")
        assert await off(shown.end) == 4


async def test_ctrl_c_without_a_terminal_is_passed_on(guest: RunningGuest) -> None:
    with screen(guest.world, "web", "--", "/bin/sh", "-c", CATCHES) as shown:
        await off(shown.until, b"go")
        assert not shown.is_raw()
        shown.type(b"\x03")
        await off(shown.until, b"caught")
        assert await off(shown.end) == 4


async def test_whoever_insists_may_leave(guest: RunningGuest) -> None:
    with screen(
        guest.world, "web", "--", "/bin/sh", "-c", "trap 'echo no' INT; echo go; while :; do sleep 1; done"
    ) as shown:
        await off(shown.until, b"go")
        shown.type(b"\x03")
        await off(shown.until, b"no")
        shown.type(b"\x03")
        assert await off(shown.end) == 130
    await no_processes_left(guest)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_restores_the_terminal_and_ends_the_command(guest: RunningGuest, number: signal.Signals) -> None:
    with screen(guest.world, "-it", "web", "--", "/bin/sh", "-c", "echo go; exec sleep 1000") as shown:
        await off(shown.until, b"go")
        assert shown.is_raw()
        shown.process.send_signal(number)
        assert await off(shown.end) == 128 + number
    await no_processes_left(guest)


async def test_a_host_that_goes_away_restores_the_terminal(world: World, tmp_path: Path) -> None:
    async with running_guest(world, tmp_path / "guest") as guest:
        with screen(guest.world, "-it", "web", "--", "/bin/sh", "-c", "echo go; exec sleep 1000") as shown:
            await off(shown.until, b"go")
            assert shown.is_raw()
            world.app.state.closing.set()
            assert await off(shown.end) == 1
            assert b"about to stop" in shown.seen


async def test_a_guest_that_goes_away_restores_the_terminal(world: World) -> None:
    scripted = Guest()
    link = AgentLink(scripted.connect, lasting=False, env=RealEnvironment())
    async with running_instance(world, link, world.consoles), trio.open_nursery() as nursery:
        peer = await scripted.peer()
        await peer.greet()

        async def serve() -> None:
            with suppress(trio.ClosedResourceError):
                await peer.serve()

        nursery.start_soon(serve)
        with screen(world, "-it", "web", "--", "cat") as shown:
            shown.type(b"echoed\r")
            await off(shown.until, b"echoed\r")
            with trio.fail_after(LONG):
                while not shown.is_raw():  # noqa: ASYNC110
                    await trio.sleep(0.01)
            await peer.stream.aclose()
            assert await off(shown.end) == 1
            assert b"the connection to the guest broke off" in shown.seen


async def test_a_paused_reader_keeps_the_session(guest: RunningGuest) -> None:
    """`... | less` reads when the person does; the host must not take that for a dead client."""
    read, write = os.pipe()
    process = subprocess.Popen(  # noqa: ASYNC220 - it is the reader that matters
        command(guest.world, "web", "--", "head", "-c", "3000000", "/dev/zero"),
        cwd=ROOT,
        stdout=write,
        env=environment(),
        stdin=subprocess.DEVNULL,
    )
    os.close(write)
    try:
        await trio.sleep(1.5)
        assert process.poll() is None

        def drain() -> int:
            total = 0
            while data := os.read(read, 65536):
                total += len(data)
            return total

        assert await off(drain) == 3_000_000
        assert await off(process.wait) == 0
    finally:
        process.kill()
        process.wait()
        os.close(read)


BAD: list[tuple[tuple[str, ...], int, str]] = [
    ((), 2, "Missing argument 'INSTANCE'"),
    (("nobody", "--", "true"), 1, "there is no instance 'nobody'"),
    (("web", "-e", "NOVALUE", "--", "true"), 1, "is not KEY=VALUE"),
    (("web", "-e", "=x", "--", "true"), 1, "is not KEY=VALUE"),
    (("web", "-it", "--", "true"), 1, "standard input is no terminal"),
    (("web", "-t", "--json", "--", "true"), 1, "--json has no terminal"),
    (("web", "--user", "", "--", "true"), 1, "user: must not be empty"),
    (("web", "--cwd", "", "--", "true"), 1, "cwd: must not be empty"),
    (("web", "--", "x" * 20_000), 1, "16384 fit"),
    (("web", "--", *["x" * 100_000] * 4), 1, "16384 fit"),
    (("web", "--", ""), 1, "the program's name is empty"),
    (("web", "--", os.fsdecode(b"\xff")), 1, "send UTF-8"),
    (("web", "--nonsense", "--", "true"), 2, "No such option"),
    (("--url", "http://127.0.0.1:1", "web", "--", "true"), 1, "the host's unix socket only"),
]


@pytest.mark.parametrize(("arguments", "status", "words"), BAD)
async def test_bad_input_is_explained(guest: RunningGuest, arguments: tuple[str, ...], status: int, words: str) -> None:
    done = await run(guest.world, *arguments)
    assert (done.returncode, done.stdout) == (status, b"")
    assert words in done.stderr.decode(), done.stderr


async def test_a_url_in_the_environment_is_explained(guest: RunningGuest) -> None:
    done = await run(guest.world, "web", "--", "true", env=environment(ZEITWORK_URL=guest.world.listening.url or ""))
    assert done.returncode == 1
    assert b"ZEITWORK_URL" in done.stderr
    assert b"ssh -L" in done.stderr


async def test_an_instance_that_does_not_run_is_explained(world: World) -> None:
    await world.create(name="web")
    done = await run(world, "web", "--", "true")
    assert done.returncode == 1
    assert b"the instance is pending" in done.stderr


def test_no_host_is_explained(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "zeitwork", "exec", "--socket", str(tmp_path / "none"), "web", "--", "true"]
    done = subprocess.run(arguments, cwd=ROOT, env=environment(), capture_output=True, timeout=LONG, check=False)
    assert done.returncode == 1
    assert b"zeitwork run" in done.stderr


def test_help_has_examples() -> None:
    arguments = [sys.executable, "-m", "zeitwork", "exec", "--help"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, timeout=LONG, check=False, text=True)
    assert done.returncode == 0
    assert "Examples:" in done.stdout
    assert "zeitwork exec web -- ls" in done.stdout


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["web"], ["web"]),
        (["web", "ls", "-l"], ["web", "--", "ls", "-l"]),
        (["web", "--", "ls", "-l"], ["web", "--", "ls", "-l"]),
        (["-u", "app", "web", "ls"], ["-u", "app", "web", "--", "ls"]),
        (["-uapp", "web", "ls"], ["-uapp", "web", "--", "ls"]),
        (["-itu", "app", "web", "ls"], ["-itu", "app", "web", "--", "ls"]),
        (["--env", "A=b", "web", "ls"], ["--env", "A=b", "web", "--", "ls"]),
        (["--env=A=b", "web", "-"], ["--env=A=b", "web", "--", "-"]),
        (["-e", "-i", "web", "ls"], ["-e", "-i", "web", "--", "ls"]),
        ([], []),
    ],
)
def test_where_the_command_begins(given: list[str], expected: list[str]) -> None:
    assert exec_._separated(given) == expected  # type: ignore[attr-defined]


async def test_what_a_guest_runs_is_what_was_asked(guest: RunningGuest) -> None:
    """The link beneath the command line, without the command line."""
    async with guest.link.open(CommandSpec(("true",))) as session:
        assert session.pid > 0
