"""A command that a guest is asked to run, and what comes back of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from actors.model.errors import InvalidInput
from actors.vm.agent.wire import MAX_PAYLOAD, records

#: Rows and columns of a terminal fit in 16 bits each.
LARGEST_TERMINAL = 65535


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """What to run: ``argv``, ``env`` over that of the app, in ``cwd`` and as ``user`` (None: the app's).

    With ``terminal``, its rows and columns, the command gets a terminal, and its standard error is part of its output.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    user: str | None = None
    terminal: tuple[int, int] | None = None

    def encode(self) -> bytes:
        """Return it as the payload of OPEN. Raises `InvalidInput` that names what can't be sent."""
        if not self.argv:
            raise InvalidInput("there is no command", field="command", fix="name a program, for example /bin/sh")
        if not self.argv[0]:
            raise InvalidInput("the program's name is empty", field="command[0]")
        items: list[tuple[str, str]] = []
        for index, word in enumerate(self.argv):
            items.append(("arg", _text(word, f"command[{index}]")))
        for key, value in self.env.items():
            if not key or "=" in key:
                raise InvalidInput(f"{key!r} is no name of a variable", field="env", fix="write NAME=VALUE")
            items.append(("env", f"{_text(key, 'env')}={_text(value, f'env.{key}')}"))
        for name, given in (("cwd", self.cwd), ("user", self.user)):
            if given == "":
                raise InvalidInput("must not be empty", field=name, fix="leave it out for the app's")
            if given is not None:
                items.append((name, _text(given, name)))
        if self.terminal is not None:
            rows, cols = self.terminal
            check_terminal(rows, cols)
            items += [("tty", "1"), ("rows", str(rows)), ("cols", str(cols))]
        items.append(("end", ""))
        payload = records(items)
        if len(payload) > MAX_PAYLOAD:
            raise InvalidInput(
                f"the command and its environment are {len(payload)} bytes; {MAX_PAYLOAD} fit",
                field="command",
                fix="pass long input through standard input or a file",
            )
        return payload


def check_terminal(rows: int, cols: int) -> None:
    """Raise `InvalidInput` unless a terminal can have that size."""
    for name, value in (("rows", rows), ("cols", cols)):
        if not 0 < value <= LARGEST_TERMINAL:
            raise InvalidInput(f"a terminal can't have {value} {name}", field=name, fix=f"1 to {LARGEST_TERMINAL}")


def check_signal(number: int) -> None:
    """Raise `InvalidInput` unless ``number`` is a signal of Linux."""
    if not 0 < number <= 64:
        raise InvalidInput(f"there is no signal {number}", field="signal", fix="1 to 64, for example 15 (SIGTERM)")


def _text(text: str, field: str) -> str:
    if "\0" in text:
        raise InvalidInput("a zero byte is not allowed in text", field=field)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput("the text is not valid Unicode", field=field, fix="send UTF-8") from None
    return text


@dataclass(frozen=True, slots=True)
class Output:
    """What a command wrote to its standard output or terminal."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Errors:
    """What a command wrote to its standard error."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Exit:
    """How a command ended: with ``status``, or by ``signal``; the other one is None."""

    status: int | None = None
    signal: int | None = None
