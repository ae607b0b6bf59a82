"""``exec``: a command or a shell in an instance's guest."""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from typing import Any

import click
import trio

from actors.model.errors import InvalidInput, Problem
from actors.vm.agent.command import CommandSpec
from zeitwork.cli import terminal
from zeitwork.cli.client import Client, quoted
from zeitwork.cli.options import talks_to_host
from zeitwork.cli.output import print_json, report_problem

#: What runs when no command is given.
SHELL = ("/bin/sh",)
#: Bytes of each stream that ``--json`` keeps.
KEPT = 1 << 20
#: Exit statuses of shells for a command that can't be run, and for one that is not there.
REFUSED, NOT_FOUND = 126, 127


class _Exec(click.Command):
    """Options end where the command begins, with or without ``--``: they are the command's from there on."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._separated(args))

    def _separated(self, args: list[str]) -> list[str]:
        valued = {
            name
            for option in self.params
            if isinstance(option, click.Option) and not option.is_flag
            for name in option.opts
        }
        words = 0
        skip = False
        for index, word in enumerate(args):
            if skip:
                skip = False
            elif word == "--":
                return args
            elif word.startswith("--"):
                skip = word in valued
            elif word.startswith("-") and len(word) > 1:
                # Of letters in one word, the first that takes a value has the rest of the word, or the next one.
                at = next((i for i, letter in enumerate(word[1:], 1) if f"-{letter}" in valued), None)
                skip = at == len(word) - 1
            else:
                words += 1
                if words == 2:
                    return [*args[:index], "--", *args[index:]]
        return args


@click.command(name="exec", cls=_Exec)
@click.argument("instance")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--stdin", "-i", "attach", is_flag=True, help="Pass standard input to the command.")
@click.option("--tty", "-t", is_flag=True, help="Give the command a terminal.")
@click.option("--user", "-u", metavar="USER", help="Run as this user of the image.  [default: the app's]")
@click.option("--cwd", "-w", metavar="DIR", help="Working directory.  [default: the app's]")
@click.option("--env", "-e", "env", multiple=True, metavar="KEY=VALUE", help="Environment variable; may be repeated.")
@talks_to_host
def exec_(
    client: Client,
    instance: str,
    command: tuple[str, ...],
    attach: bool,
    tty: bool,
    user: str | None,
    cwd: str | None,
    env: tuple[str, ...],
    as_json: bool,
) -> int:
    """Run a command in an instance, with the app's user, directory and environment unless told otherwise.

    Without a command it is a shell (/bin/sh), with a terminal when standard input is one. It goes through the host's
    unix socket only. The exit status is the command's, 128 and the number of the signal that ended it, 126 when it
    can't be run, 127 when it is not there, and 1 when the host refuses.

    \b
    Examples:
      zeitwork exec web                             a shell
      zeitwork exec web -- ls -l /srv
      zeitwork exec web -it -- psql -U app          a terminal for any program
      zeitwork exec web -i -- tar -xC /srv < a.tar  standard input
      zeitwork exec web --user root -e DEBUG=1 -- ./maintain
    """
    stdin = terminal.standard_input()
    if not command:
        attach = True
        tty = tty or (terminal.is_terminal(stdin) and not as_json)
    if tty and as_json:
        raise InvalidInput("--json has no terminal to show", field="--tty", fix="leave out --tty or --json")
    if tty and attach and not terminal.is_terminal(stdin):
        raise InvalidInput("standard input is no terminal", field="--tty", fix="leave out --tty; -i passes the input")
    if client.socket is None:
        raise InvalidInput(
            "exec goes through the host's unix socket only, and a URL is given",
            field="--url",
            fix="leave out --url and ZEITWORK_URL; from elsewhere: ssh -L my.sock:/run/zeitwork/zeitwork.sock HOST, "
            "then --socket my.sock",
        )
    request = _request(command or SHELL, tty, stdin, user, cwd, env)
    found = client.instance(instance)
    path = f"/api/v1/instances/{quoted(found['id'])}/exec"
    return _run(client, path, request, stdin if attach else None, as_json)


def _request(
    command: Sequence[str], tty: bool, stdin: int | None, user: str | None, cwd: str | None, env: Sequence[str]
) -> dict[str, Any]:
    variables: dict[str, str] = {}
    if tty and "TERM" in os.environ:
        variables["TERM"] = os.environ["TERM"]
    for pair in env:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise InvalidInput(f"{pair!r} is not KEY=VALUE", field="--env", fix="write for example LOG_LEVEL=debug")
        variables[key] = value
    request: dict[str, Any] = {"command": list(command), "env": variables, "user": user, "cwd": cwd}
    # The host says the same of it, but breaks off before it has read what is far too long.
    CommandSpec(tuple(command), variables, cwd, user).encode()
    if tty:
        rows, cols = terminal.size(0 if stdin is None else stdin)
        request |= {"tty": True, "rows": rows, "cols": cols}
    return request


def _run(client: Client, path: str, request: dict[str, Any], stdin: int | None, as_json: bool) -> int:
    from zeitwork.cli import remote

    assert client.socket is not None
    kept = _Kept()
    write = kept.write if as_json else _write
    try:
        status = trio.run(
            lambda: remote.run(client.socket, path, request, stdin=stdin, write=write)  # type: ignore[arg-type]
        )
    except remote.Left as left:
        return 128 + left.number
    except Problem as problem:
        report_problem(problem, as_json=as_json)
        return {"command-refused": REFUSED, "command-not-found": NOT_FOUND}.get(problem.code, 1)
    if as_json:
        print_json({"exit_status": status, **kept.shown()})
    return status


async def _write(stream: int, data: bytes) -> None:
    await trio.to_thread.run_sync(_write_all, stream, data, abandon_on_cancel=True)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # somebody else made our terminal so
            select.select([], [fd], [])


class _Kept:
    """What a command wrote, the first `KEPT` bytes of each stream."""

    def __init__(self) -> None:
        self._streams = {1: bytearray(), 2: bytearray()}
        self._truncated = False

    async def write(self, stream: int, data: bytes) -> None:
        """Keep what there is room for."""
        await trio.lowlevel.checkpoint()
        kept = self._streams[stream]
        room = KEPT - len(kept)
        kept += data[:room]
        self._truncated = self._truncated or len(data) > room

    def shown(self) -> dict[str, Any]:
        """Return it as JSON shows it."""
        out, err = (bytes(self._streams[stream]).decode(errors="replace") for stream in (1, 2))
        return {"stdout": out, "stderr": err, "truncated": self._truncated}
