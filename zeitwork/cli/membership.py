"""``nodes add``, ``nodes rm`` and ``leave``: hosts come and go."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from ipaddress import ip_address
from typing import Any

import click

from actors.model.errors import Failed, InvalidInput, NotFound, Problem, Unavailable
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
        click.echo(_said(found))


@nodes.command()
@click.argument("node")
@click.option("--dead", is_flag=True, help="It never comes back: what ran there is placed anew at once.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@talks_to_host
def rm(client: Client, node: str, dead: bool, yes: bool, as_json: bool) -> None:
    """Remove a host that is stopped and empty; a living one leaves by itself (`zeitwork leave`).

    With --dead also one that still holds instances: they run elsewhere from then on, what may never run twice too, so
    make sure that it is off. It is refused everywhere if it comes back. NODE is a hostname or id.

    \b
    Examples:
      zeitwork nodes rm h3
      zeitwork nodes rm h3 --dead
    """
    found = client.node(node)
    held = found["resources"]["placements"]
    if dead and held and not yes:
        question = f"{found['hostname']} holds {held} instances, which are placed anew. Is it off for good?"
        if not sys.stdin.isatty() or not click.confirm(question, err=True):
            raise InvalidInput(
                f"{found['hostname']} holds {held} instances that would run twice if it were not off",
                field="--yes",
                fix="make sure that it is, then add --yes",
            )
    client.delete(f"/api/v1/nodes/{found['id']}", **({"dead": "true"} if dead else {}))
    if as_json:
        print_json({"id": found["id"], "hostname": found["hostname"], "state": "terminated"})
    else:
        click.echo(f"{found['hostname']} is removed")


@click.command()
@click.option("--force", is_flag=True, help="Stop what runs here first; or, without a process, forget the cluster.")
@click.option("--data-dir", metavar="PATH", help="Whose cluster to forget. [/var/lib/zeitwork]")
@talks_to_host
def leave(client: Client, force: bool, data_dir: str | None, as_json: bool) -> None:
    """Take this host out of its cluster, and end its process. Run it on the host itself.

    Refused while instances are here: drain the host first, or let --force stop them; they run elsewhere then. If the
    process does not run, because the host was removed or its cluster is gone, --force makes the machine one that can
    join anew: VMs that still run here end.

    \b
    Examples:
      zeitwork drain h3 && ssh root@h3 zeitwork leave
      zeitwork leave --force
    """
    try:
        found = client.post("/api/v1/leave", {"force": force}, timeout=240)
    except Unavailable as problem:
        if not force or "no host answers" not in problem.detail:
            raise
        _forget(data_dir, as_json)
        return
    progress = Progress(quiet=as_json)
    try:
        _wait_until_gone(client, progress, time.monotonic() + 60)
    finally:
        progress.done()
    if as_json:
        print_json(found)
    else:
        click.echo(f"{found['hostname']} has left the cluster, and its process has ended")


def _wait_until_gone(client: Client, progress: Progress, deadline: float) -> None:
    pause = FIRST_PAUSE
    while True:
        try:
            client.get("/health")
        except Unavailable:
            return
        except Problem:
            pass  # it says that something is wrong with it, which is so
        progress.show("it has left; its process ends")
        pause = pause_until(pause, deadline, "its process has not ended", "see its log")


def _forget(data_dir: str | None, as_json: bool) -> None:
    import trio

    from zeitwork.cli.host import require_root
    from zeitwork.config import load
    from zeitwork.leave import forget_cluster

    require_root("leave")
    config = load({"data_dir": data_dir}, os.environ)
    if not config.data_dir.exists():
        raise NotFound(f"{config.data_dir} does not exist", field="data_dir", fix="give --data-dir")
    ended = trio.run(forget_cluster, config)
    if as_json:
        print_json({"data_dir": str(config.data_dir), "ended": ended})
    else:
        click.echo(f"{config.data_dir} belongs to no cluster any more; {ended} VMs ended")


def _wait_until_ready(client: Client, found: Any, progress: Progress, deadline: float) -> Any:
    pause = FIRST_PAUSE
    try:
        while True:
            if found["state"] in ("ready", "draining"):
                return found
            if found["state"] in ("error", "terminated", "down"):
                raise Failed(
                    _said(found),
                    fix=f"mend that, then: zeitwork uncordon {found['id']}, or add it again with the code it shows now",
                )
            said = _said(found)
            progress.show(said)
            pause = pause_until(pause, deadline, said, "it goes on by itself: zeitwork nodes")
            found = look(client, f"/api/v1/nodes/{found['id']}", progress, deadline)
    finally:
        progress.done()


def _said(node: Any) -> str:
    return f"{node['hostname']} is {node['state']}" + (f": {node['reason']}" if node["reason"] else "")


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
