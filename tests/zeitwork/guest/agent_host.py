"""The guest's agent run on this machine under the sanitizers, and a plain host for it: what tests of both sides use."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.vm.agent.wire import PREAMBLE, TOKEN_BYTES, VERSION, Decoder, Frame, Kind, records

GUEST = Path(__file__).parents[3] / "zeitwork" / "guest"
SOURCES = (
    "agent",
    "basics",
    "channel",
    "command",
    "config",
    "identity",
    "opening",
    "processes",
    "session",
    "statistics",
    "user",
)
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
#: Seconds; only a bound for what should take milliseconds.
PATIENCE = 60.0


@functools.cache
def agent_binary() -> Path:
    """Compile the agent for this machine, once in a run of the tests. Skips the test where there is no gcc."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    folder = Path(tempfile.mkdtemp(prefix="zwagent-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)
    target = folder / "agent_host"
    sources = [str(Path(__file__).with_name("agent_host.c")), *(str(GUEST / f"{name}.c") for name in SOURCES)]
    options = ["-std=gnu11", "-D_GNU_SOURCE", "-g", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{GUEST}", *SANITIZERS]
    subprocess.run(["gcc", *options, "-o", target, *sources], check=True, timeout=240)
    return target


@contextlib.contextmanager
def agent_host(folder: Path, user: str | None = None) -> Iterator[Path]:
    """Run the agent; yield the socket that it listens on. At the end it must have had no error.

    What an init would report on its console is in ``folder / "agent.log"``.

    Commands run as ``user`` (as in an image), else as who runs the tests.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root: commands become their user as in a guest")
    path, log = folder / "agent.sock", folder / "agent.log"
    # As an init begins, whatever these tests' own shell had ignored.
    command = ["env", "--default-signal", str(agent_binary()), str(path), *([] if user is None else [user])]
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        _wait_until_it_listens(path, process)
        yield path
        process.terminate()  # leaks are looked for at a clean end
        assert process.wait(PATIENCE) == 0, log.read_text(errors="replace")
    finally:
        process.kill()
        process.wait(PATIENCE)


def _wait_until_it_listens(path: Path, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE
    with socket.socket(socket.AF_UNIX) as connection:
        while connection.connect_ex(str(path)) != 0:
            assert process.poll() is None, "the agent ended at once"
            assert time.monotonic() < end
            time.sleep(0.01)


@contextlib.contextmanager
def connected(path: Path) -> Iterator[AgentClient]:
    """A connection to an agent's unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(path))
        yield AgentClient(connection)


class AgentClient:
    """The host's end as plain as can be: blocking, and everything that comes is kept in ``frames``."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.frames: list[Frame] = []
        self._decoder = Decoder()

    def send(self, kind: int, session: int = 0, payload: bytes = b"") -> None:
        self.connection.sendall(Frame(kind, session, payload).encode())

    def receive(self) -> Frame:
        """The next frame. `EOFError` when the agent ended the connection."""
        while not self.frames:
            self._read()
        return self.frames.pop(0)

    def _read(self) -> None:
        data = self.connection.recv(65536)
        if not data:
            raise EOFError
        self.frames += self._decoder.feed(data)

    def wait_for(self, *kinds: Kind, session: int | None = 0) -> Frame:
        """The next frame of one of these kinds. Earlier ones of its session are thrown away, those of others kept."""
        end = time.monotonic() + PATIENCE
        seen = 0
        while time.monotonic() < end:
            while seen == len(self.frames):
                self._read()
            frame = self.frames[seen]
            if session is not None and frame.session != session:
                seen += 1
                continue
            del self.frames[seen]
            if frame.kind in kinds:
                return frame
        raise TimeoutError(f"no {kinds}")

    def hello(self) -> int:
        """Begin, as after an earlier host that ended in the middle of a frame. Return the flags."""
        token = os.urandom(TOKEN_BYTES)
        self.connection.sendall(PREAMBLE)
        self.send(Kind.HELLO, 0, token + VERSION.to_bytes(2, "little"))
        answer = self._skip_to(token)
        assert int.from_bytes(answer[:2], "little") == VERSION
        return int.from_bytes(answer[2:4], "little")

    def _skip_to(self, token: bytes) -> bytes:
        """What an earlier host left is no frames of ours: find the token in the bytes."""
        data = b"".join(frame.encode() for frame in self.frames)
        self.frames = []
        while len(rest := data.partition(token)[2]) < 4:
            received = self.connection.recv(65536)
            if not received:
                raise EOFError
            data += received
        self._decoder = Decoder()
        self.frames = self._decoder.feed(rest[4:])
        return rest

    def request(self, kind: Kind, payload: bytes = b"") -> bytes:
        """Send a request; return its answer's payload. `AssertionError` with the agent's words when it was refused."""
        answers = {
            Kind.PING: Kind.PONG,
            Kind.STATISTICS: Kind.STATISTICS_BACK,
        }
        self.send(kind, 0, payload)
        answer = self.wait_for(answers.get(kind, Kind.OK), Kind.ERROR)
        assert answer.kind != Kind.ERROR, answer.payload[1:].decode()
        if answer.kind == Kind.OK:
            assert answer.payload == bytes([kind])
        return answer.payload

    def ping(self, number: int = 7) -> int:
        """Return the milliseconds since the guest's boot."""
        answer = self.request(Kind.PING, number.to_bytes(8, "little"))
        assert int.from_bytes(answer[:8], "little") == number
        return int.from_bytes(answer[8:16], "little")

    def open(self, session: int, *argv: str, **options: str) -> int:
        """Start a command; return its process. `AssertionError` with the agent's words when it was refused.

        ``options`` are further records; ``env`` may have several lines.
        """
        self.send_open(session, *argv, **options)
        answer = self.wait_for(Kind.STARTED, Kind.REFUSED, session=session)
        assert answer.kind == Kind.STARTED, answer.payload.decode()
        return int.from_bytes(answer.payload, "little")

    def send_open(self, session: int, *argv: str, **options: str) -> None:
        """Ask for a command without waiting for what becomes of it."""
        items = [("arg", argument) for argument in argv]
        items += [(name, line) for name, value in options.items() for line in value.split("\n")]
        self.send(Kind.OPEN, session, records([*items, ("end", "")]))

    def refusal(self, session: int, *argv: str, **options: str) -> str:
        """The agent's words about a command that it must refuse."""
        self.send_open(session, *argv, **options)
        return self.wait_for(Kind.REFUSED, session=session).payload.decode()

    def finish(self, session: int, credit: bool = True) -> tuple[bytes, bytes, tuple[int, int]]:
        """Take what a command writes until it ends: output, errors, and (0, status) or (1, signal)."""
        streams = {Kind.OUTPUT: b"", Kind.ERRORS: b""}
        while True:
            frame = self.wait_for(Kind.OUTPUT, Kind.ERRORS, Kind.EXIT, session=session)
            if frame.kind == Kind.EXIT:
                return streams[Kind.OUTPUT], streams[Kind.ERRORS], (frame.payload[0], frame.payload[1])
            streams[Kind(frame.kind)] += frame.payload
            if credit:
                self.send(Kind.CREDIT, session, len(frame.payload).to_bytes(4, "little"))

    def run(self, *argv: str, session: int = 1, **options: str) -> tuple[bytes, bytes, tuple[int, int]]:
        """Run a command without input to its end."""
        self.open(session, *argv, **options)
        self.send(Kind.EOF, session)
        return self.finish(session)

    def read_until(self, session: int, text: bytes) -> bytes:
        """Output of a command until ``text`` is in it."""
        found = b""
        while text not in found:
            frame = self.wait_for(Kind.OUTPUT, Kind.EXIT, session=session)
            assert frame.kind == Kind.OUTPUT, f"it ended before {text!r}: {found!r}"
            found += frame.payload
            self.send(Kind.CREDIT, session, len(frame.payload).to_bytes(4, "little"))
        return found
