"""``token``: what lets a new host join."""

from __future__ import annotations

import re
from typing import Any

import click

from actors.model.errors import InvalidInput
from zeitwork.cli.client import Client
from zeitwork.cli.options import talks_to_host
from zeitwork.cli.output import age, print_json, table

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
#: Seconds that a token may be valid, as the API says.
_SHORTEST, _LONGEST = 60, 7 * 86400


@click.group()
def token() -> None:
    """Make, list and revoke join tokens. Each lets one new host in, once, for a short time.

    \b
    Examples:
      zeitwork token create
      zeitwork token create --ttl 10m
      zeitwork token ls
    """


@token.command()
@click.option("--ttl", default="1h", show_default=True, metavar="DURATION", help="How long it is valid: 10m, 1h, 7d.")
@talks_to_host
def create(client: Client, ttl: str, as_json: bool) -> None:
    """Print the command that makes another machine a host of this cluster. Its token is shown this once.

    \b
    Examples:
      zeitwork token create
      ssh root@h2 "$(zeitwork token create)"
    """
    valid = seconds(ttl)
    if not _SHORTEST <= valid <= _LONGEST:
        raise InvalidInput(f"{ttl!r} is not from 1m to 7d", field="ttl", fix="write, for example, 10m, 1h or 7d")
    made = client.post("/api/v1/tokens", {"ttl": valid})
    command = f"zeitwork run --join {made['join']} --token {made['token']}"
    if as_json:
        print_json(made | {"command": command})
    else:
        click.echo(command)


@token.command("ls")
@talks_to_host
def listing(client: Client, as_json: bool) -> None:
    """List join tokens, without their secrets."""
    found = client.get("/api/v1/tokens")["items"]
    if as_json:
        print_json(found)
        return
    rows = [(one["id"], one["state"], age(one["created_at"]), one["expires_at"], _user(one)) for one in found]
    table(("ID", "STATE", "AGE", "EXPIRES", "USED BY"), rows)


@token.command()
@click.argument("identifier", metavar="ID")
@talks_to_host
def revoke(client: Client, identifier: str, as_json: bool) -> None:
    """Make a token worthless.

    \b
    Examples:
      zeitwork token revoke 0190a7f2-...
    """
    gone = client.delete(f"/api/v1/tokens/{identifier}")
    if as_json:
        print_json(gone)
    else:
        click.echo(f"{gone['id']} is {gone['state']}")


def _user(token: Any) -> str | None:
    """Return who came with a token: what its host is called, its machine's id where nobody knows that any more."""
    found = token.get("hostname") or token["used_by"]
    return None if found is None else str(found)


def seconds(text: str) -> int:
    """Return a duration such as ``90s``, ``10m``, ``1h`` or ``7d`` in seconds. Raises `InvalidInput`."""
    match = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    if match is None:
        raise InvalidInput(f"{text!r} is not a duration", field="ttl", fix="write, for example, 10m, 1h or 7d")
    return int(match[1]) * _SECONDS[match[2]]
