"""``nodes add`` and ``nodes rm``: hosts come and go."""

from __future__ import annotations

import re
import socket
import time
from ipaddress import ip_address
from typing import Any

import click

from actors.model.errors import Failed, InvalidInput
from zeitwork.cli.client import Client
from zeitwork.cli.nodes import nodes
from zeitwork.cli.options import talks_to_host
from zeitwork.cli.output import Progress, print_json
from zeitwork.cli.waiting import FIRST_PAUSE, look, pause_until
from zeitwork.config import LINK_PORT

__all__ = ["nodes"]


@nodes.command()
@click.argument("hostname")
@click.argument("address", metavar="ADDRESS[:PORT]")
@click.argument("code", required=False)
@click.option("--timeout", type=click.IntRange(10, 24 * 3600), default=600, show_default=True, help="Seconds to try.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it is ready.")
@talks_to_host
def add(client: Client, hostname: str, address: str, code: str | None, timeout: int, wait: bool, as_json: bool) -> None:
    """Invite a machine that runs ``zeitwork run --unclaimed`` into the cluster.

    CODE is what it printed; one that was started with a join token needs none.

    \b
    Examples:
      zeitwork nodes add h2 192.0.2.2 zwi1_...
      zeitwork nodes add h2 [2001:db8::2]:7946 zwi1_... --timeout 60
    """
    ip, port = resolve(address)
    body: dict[str, Any] = {"hostname": hostname, "ip_address": ip, "port": port, "timeout": timeout}
    if code is not None:
        body["code"] = code
    found = client.post("/api/v1/nodes", body)
    if wait:
        found = _wait_until_ready(client, found, Progress(quiet=as_json), time.monotonic() + timeout + 60)
    if as_json:
        print_json(found)
    else:
        click.echo(f"{found['hostname']} is {found['state']}{': ' + found['reason'] if found['reason'] else ''}")


def _wait_until_ready(client: Client, found: Any, progress: Progress, deadline: float) -> Any:
    pause = FIRST_PAUSE
    try:
        while True:
            if found["state"] in ("ready", "draining"):
                return found
            if found["state"] in ("error", "terminated", "down"):
                raise Failed(
                    f"{found['hostname']} is {found['state']}: {found['reason']}",
                    fix=f"mend that, then: zeitwork uncordon {found['id']}, or add it again with the code it shows now",
                )
            said = f"{found['hostname']} is {found['state']}: {found['reason']}"
            progress.show(said)
            pause = pause_until(pause, deadline, said, "it goes on by itself: zeitwork nodes")
            found = look(client, f"/api/v1/nodes/{found['id']}", progress, deadline)
    finally:
        progress.done()


def resolve(text: str) -> tuple[str, int]:
    """Return the IP address and port that somebody wrote, names looked up. Raises `InvalidInput`."""
    try:
        return str(ip_address(text)), LINK_PORT
    except ValueError:
        pass
    match = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]\s]+))(?::(\d{1,5}))?", text)
    port = int(match[3] or LINK_PORT) if match else 0
    if match is None or not 0 < port < 65536:
        raise InvalidInput(
            f"{text!r} is not ADDRESS or ADDRESS:PORT", field="address", fix="write, for example, 192.0.2.2:7946"
        )
    try:
        found = socket.getaddrinfo(match[1] or match[2], port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidInput(f"{text!r} can't be looked up: {error}", field="address") from None
    return str(found[0][4][0]), port
