"""The guest's serial console: a growing file that is parsed, followed, and rotated under its writer."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from actors.vm.outcome import Evidence

#: Bytes of one console file, and how many files are kept, the live one included.
ROTATE_AT, ROTATE_KEEP = 10 * 1024 * 1024, 3
#: A longer line is not one of ours; the rest of it is skipped.
MAX_LINE = 8192
#: Seconds between looks at a file that is followed. The guest's last words are read at its end in any case.
POLL = 0.1
#: Bytes of the console's end that are enough to tell how it ended.
_EVIDENCE = 64 * 1024
_CHUNK = 64 * 1024
_FIELD = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|\S*)')
_UNPRINTABLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x20-\x7e\u00a0-\U0010ffff\t]")
_PANIC = re.compile(r"Kernel panic - not syncing: (.*)")


@dataclass(frozen=True, slots=True)
class Line:
    """One report of the guest's init: ``verb`` and its fields."""

    verb: str
    fields: dict[str, str] = field(default_factory=dict)


class ConsoleParser:
    """Finds the init's lines in console bytes as they come. Text between them is kept as the last few lines.

    Lines with nonce ``-`` come from an init that has no configuration yet; once it has, they are not believed.
    """

    def __init__(self, nonce: str, keep: int = 5) -> None:
        self._own = f"[zeitwork {nonce}] ".encode()
        self._early = b"[zeitwork -] "
        self._configured = nonce == "-"
        self._partial = bytearray()
        self._skipping = False
        self.output: deque[str] = deque(maxlen=keep)
        self.panic: str | None = None

    def feed(self, data: bytes) -> list[Line]:
        """Take the next bytes; return the reports that they complete."""
        lines: list[Line] = []
        for piece in data.splitlines(keepends=True):
            ended = piece[-1:] in b"\r\n"
            if not self._skipping:
                self._partial += piece[: MAX_LINE + 1 - len(self._partial)]
                if len(self._partial) > MAX_LINE:
                    self._skipping = True
            if ended:
                text = bytes(self._partial)
                self._partial.clear()
                self._skipping = False
                if (line := self._line(text)) is not None:
                    lines.append(line)
        return lines

    def finish(self) -> list[Line]:
        """There is no more: return the report in a last line without an end, if it is one."""
        return self.feed(b"\n") if self._partial else []

    def _line(self, raw: bytes) -> Line | None:
        raw = raw.strip(b"\r\n")
        if raw.startswith(self._own):
            self._configured = True
            return _parse(raw[len(self._own) :])
        if raw.startswith(self._early) and not self._configured:
            return _parse(raw[len(self._early) :])
        text = _UNPRINTABLE.sub("", raw.decode("utf-8", "replace")).strip()
        if (panic := _PANIC.search(text)) is not None:
            self.panic = panic[1]
        if text:
            self.output.append(text)
        return None


def _parse(raw: bytes) -> Line | None:
    verb, _, rest = raw.decode("utf-8", "replace").partition(" ")
    fields = {}
    for match in _FIELD.finditer(rest):
        value = match[2]
        if value.startswith('"'):
            try:
                value = str(json.loads(value))
            except ValueError:
                value = value.strip('"')
        fields[match[1]] = value
    return Line(verb, fields) if verb else None


def gather(
    console: Path,
    nonce: str,
    *,
    started: bool = False,
    vmm_status: int | None = None,
    vmm_oom: bool = False,
    vmm_words: str = "",
    ran: float | None = None,
) -> Evidence:
    """Return what a console's end, and what is known otherwise, says about how the guest ended. Blocking."""
    parser = ConsoleParser(nonce)
    data = tail(console, _EVIDENCE).rpartition(_mark(nonce))[2]
    if not started:
        # The start may lie further back than an app's last 64 KiB.
        started = _ever_started(console, nonce)
    status = number = None
    oom = False
    error = None
    kernel: list[str] = []
    for line in [*parser.feed(data), *parser.finish()]:
        if line.verb == "started":
            started = True
        elif line.verb == "error":
            error = f"{line.fields.get('message', 'unknown')} (at {line.fields.get('stage', 'unknown')})"
        elif line.verb == "exited":
            status = _number(line.fields.get("status"))
            number = _number(line.fields.get("signal"))
            oom = line.fields.get("oom") == "1"
    for text in parser.output:
        if not re.match(r"\[\s*\d+\.\d+\] reboot:", text):
            kernel.append(text)
    return Evidence(
        started=started,
        status=status,
        signal=number,
        oom=oom,
        error=error,
        panic=parser.panic,
        vmm_status=vmm_status,
        vmm_oom=vmm_oom,
        ran=ran,
        output=tuple(kernel),
        vmm_words=vmm_words,
    )


def mark(console: Path, nonce: str) -> None:
    """Note in a console that was written to before that another start begins here. Blocking; raises `OSError`."""
    if console.exists() and console.stat().st_size:
        with console.open("ab") as file:
            file.write(b"\n" + _mark(nonce))


def _mark(nonce: str) -> bytes:
    return f"[zeitwork] next start {nonce}\n".encode()


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _ever_started(console: Path, nonce: str) -> bool:
    """Look through the whole console, rotated files included, for the init's report that the app started."""
    wanted = f"[zeitwork {nonce}] started".encode()
    for path in reversed([console, *rotated(console)]):
        try:
            with path.open("rb") as file:
                before = b""
                while chunk := file.read(1024 * 1024):
                    if wanted in before + chunk:
                        return True
                    before = chunk[-len(wanted) :]
        except OSError:
            continue
    return False


def rotated(console: Path, keep: int = ROTATE_KEEP) -> list[Path]:
    """Return where older output of a console lies, newest first, whether or not it is there."""
    return [console.with_name(f"{console.name}.{index}") for index in range(1, keep)]


def tail(console: Path, limit: int) -> bytes:
    """Return at most the last ``limit`` bytes of a console, reaching into rotated files. Blocking."""
    pieces: list[bytes] = []
    for path in [console, *rotated(console)]:
        if limit <= 0:
            break
        try:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - limit))
                piece = file.read(limit)
        except OSError:
            continue
        pieces.append(piece)
        limit -= len(piece)
    return b"".join(reversed(pieces))


def rotate(console: Path, limit: int = ROTATE_AT, keep: int = ROTATE_KEEP) -> bool:
    """Move a console's content aside when it has more than ``limit`` bytes; return whether it was. Blocking.

    The writer keeps its descriptor and appends to the emptied file; what it writes between our last read and the
    truncation is lost, which is the price of not being in its way.
    """
    try:
        if console.stat().st_size <= limit:
            return False
    except FileNotFoundError:
        return False
    older = rotated(console, keep)
    for source, target in reversed(list(itertools.pairwise(older))):
        if source.exists():
            source.replace(target)
    temporary = console.with_name(f".{console.name}.rotating")
    with console.open("r+b") as live, temporary.open("wb") as copy:
        os.fchmod(copy.fileno(), 0o600)
        shutil.copyfileobj(live, copy, 1024 * 1024)
        copy.flush()
        # Emptied first, named after: a follower that sees the new name must not find old bytes in the live file.
        live.truncate(0)
    temporary.replace(older[0])
    return True


def shrink(console: Path, limit: int) -> None:
    """Keep only the last ``limit`` bytes of a console that nobody writes any more. Blocking. Raises `OSError`."""
    if console.stat().st_size <= limit and not any(path.exists() for path in rotated(console)):
        return
    data = tail(console, limit)
    for path in rotated(console):
        path.unlink(missing_ok=True)
    temporary = console.with_name(f".{console.name}.rotating")
    temporary.write_bytes(data)
    temporary.chmod(0o600)
    temporary.replace(console)


class Follower:
    """Reads a console from one place on, across rotations."""

    def __init__(self, console: Path, offset: int = 0) -> None:
        self._console = console
        self._older = rotated(console)[0]
        self._offset = offset
        self._generation = _inode(self._older)

    def read(self) -> bytes:
        """Return what is new since the last read, b"" when nothing is. Blocking, at most 64 KiB."""
        generation = _inode(self._older)
        if generation != self._generation:
            # What we had not read yet is at the end of the file that was moved aside.
            rest = _read(self._older, self._offset)
            if rest:
                self._offset += len(rest)
                return rest
            self._generation, self._offset = generation, 0
        data = _read(self._console, self._offset)
        self._offset += len(data)
        return data


async def follow(
    console: Path, offset: int = 0, *, ended: Callable[[], bool] = lambda: False, poll: float = POLL
) -> AsyncGenerator[bytes, None]:
    """Yield a console's bytes from ``offset`` of the live file on, as they come.

    Ends when ``ended()`` says so and everything was read. Survives rotation, unless two of them happen between two
    polls. Close it with ``aclose`` (`contextlib.aclosing`).
    """
    follower = Follower(console, offset)
    while True:
        over = ended()
        data = follower.read()
        if data:
            yield data
            await trio.lowlevel.checkpoint()
        elif over:
            return
        else:
            await trio.sleep(poll)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _read(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(_CHUNK)
    except OSError:
        return b""
