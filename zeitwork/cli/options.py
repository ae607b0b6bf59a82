"""Options that many commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from actors.model.errors import InvalidInput
from zeitwork.cli.client import Client

F = TypeVar("F", bound=Callable[..., Any])


def talks_to_host(command: F) -> F:
    """Add ``--socket``, ``--url`` and ``--json``; the command receives ``client`` and ``as_json``."""

    def wrapped(*args: Any, socket: Path | None, url: str | None, **more: Any) -> Any:
        client = Client(socket, url)
        try:
            return command(*args, client=client, **more)
        finally:
            client.close()

    wrapped.__doc__ = command.__doc__
    wrapped.__name__ = command.__name__
    if hasattr(command, "__click_params__"):
        wrapped.__click_params__ = command.__click_params__  # type: ignore[attr-defined]
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON for programs."),
        click.option("--url", help="Talk to the host at this address, for example http://127.0.0.1:8080."),
        click.option(
            "--socket",
            type=click.Path(path_type=Path),
            help="Talk to the host at this unix socket.  [default: $ZEITWORK_SOCKET or /run/zeitwork/zeitwork.sock]",
        ),
    ):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]


def parse_taint(text: str, field: str) -> dict[str, str]:
    """Return ``KEY`` or ``KEY=VALUE`` as the endpoint takes it. Raises `InvalidInput` without a key."""
    key, _, value = text.partition("=")
    if not key:
        raise InvalidInput(f"{text!r} has no key", field=field, fix="write KEY or KEY=VALUE, for example gpu")
    return {"key": key, "value": value}
