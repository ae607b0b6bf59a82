"""``ps``, ``start``, ``stop``, ``rm``, ``logs``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import click

from actors.model.errors import InvalidInput
from actors.model.units import format_mib
from zeitwork.cli.client import Client
from zeitwork.cli.groups import remove_group
from zeitwork.cli.options import talks_to_host
from zeitwork.cli.output import Progress, age, print_json, table, urls
from zeitwork.cli.waiting import wait_for_state, wait_until_up


@click.command()
@click.option("--all", "-a", "everything", is_flag=True, help="Show terminated instances too.")
@talks_to_host
def ps(client: Client, everything: bool, as_json: bool) -> None:
    """List instances, and why one is not what it should be: what a pending one waits for, say.

    \b
    Examples:
      zeitwork ps
      zeitwork ps --json | jq '.[].ipv6'
    """
    found = list(client.pages("/api/v1/instances", all="true" if everything else None))
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("no instances; start one with: zeitwork deploy IMAGE", err=True)
        return
    # Most have none: a column for those who use them.
    grouped = any(item.get("group") for item in found)
    hosts = {node["id"]: node["hostname"] for node in client.pages("/api/v1/nodes")}
    several = len(hosts) > 1
    table(
        (
            "NAME",
            *(["GROUP"] if grouped else []),
            "STATE",
            *(["HOST"] if several else []),
            "ADDRESS",
            "PORT",
            "VCPU",
            "MEMORY",
            "AGE",
            "ID",
            "REASON",
        ),
        (
            (
                item["name"],
                *([item.get("group")] if grouped else []),
                f"{item['state']} (unhealthy)" if item.get("health_status") == "unhealthy" else item["state"],
                *([hosts.get(item.get("node_id"))] if several else []),
                item.get("ipv6") or item.get("ipv4"),
                item["default_port"],
                item["resources"]["vcpu"],
                format_mib(item["resources"]["memory"]),
                age(item["created_at"]),
                item["id"],
                item.get("reason") or _awaited(item),
            )
            for item in found
        ),
    )


def _awaited(instance: Any) -> str | None:
    """Return what was asked of an instance that has not come about, which its state does not tell."""
    wanted = instance["desired_state"]
    if wanted in ("stopped", "terminated") and instance["state"] in ("running", "paused", "unknown"):
        return f"is to be {'removed' if wanted == 'terminated' else 'stopped'}"
    return None


@click.command()
@click.argument("instance")
@click.option("--timeout", type=click.FloatRange(0), help="Seconds the app gets before it is killed.")
@click.option("--force", is_flag=True, help="Kill at once.")
@click.option("--no-wait", is_flag=True, help="Do not wait until it has stopped.")
@talks_to_host
def stop(client: Client, instance: str, timeout: float | None, force: bool, no_wait: bool, as_json: bool) -> None:
    """Stop an instance gracefully: the app gets its stop signal, then its time, then the end.

    \b
    Examples:
      zeitwork stop web
      zeitwork stop web --timeout 5
    """
    body = {"force": force} | ({"stop_timeout": timeout} if timeout is not None else {})
    path = f"/api/v1/instances/{client.instance(instance)['id']}/stop"
    ask = partial(client.post, path, body)
    settle(client, ask(), {"stopped", "failed", "terminated"}, no_wait, as_json, again=ask)


@click.command()
@click.argument("instance")
@click.option("--no-wait", is_flag=True, help="Do not wait until it runs.")
@talks_to_host
def start(client: Client, instance: str, no_wait: bool, as_json: bool) -> None:
    """Start a stopped or failed instance again; it gets a new address.

    One that waits for its next try keeps its address and is tried at once.

    \b
    Examples:
      zeitwork start web
    """
    found = client.post(f"/api/v1/instances/{client.instance(instance)['id']}/start")
    settle(client, found, {"running"}, no_wait, as_json)


@click.command()
@click.argument("instance")
@click.option("--timeout", type=click.FloatRange(0), help="Seconds the app gets before it is killed.")
@click.option("--force", is_flag=True, help="Kill the app instead of stopping it.")
@click.option(
    "--volumes",
    type=click.Choice(["keep", "delete"]),
    default="keep",
    show_default=True,
    help="What becomes of its volumes.",
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask, even when it runs.")
@click.option("--no-wait", is_flag=True, help="Do not wait until nothing is left of it.")
@talks_to_host
def rm(
    client: Client,
    instance: str,
    timeout: float | None,
    force: bool,
    volumes: str,
    yes: bool,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Remove an instance, or a group with all of its instances: VMs, writable layers and addresses.

    It is gone once its host has said that nothing of it is left. When that host is down, this is said and not waited
    for.

    \b
    Examples:
      zeitwork rm web
      zeitwork rm web --timeout 5
      zeitwork rm web --yes --force
    """
    group = client.group_called(instance)
    if group is not None:
        if timeout is not None or volumes != "keep":
            field = "--volumes" if timeout is None else "--timeout"
            raise InvalidInput(f"{group['name']} is a group: {field} is for one instance", field=field, fix="leave it")
        remove_group(client, group, yes=yes, force=force, no_wait=no_wait, as_json=as_json)
        return
    found = client.instance(instance)
    if found.get("group") and not as_json:
        fewer = f"zeitwork scale {found['group']} N for fewer"
        click.echo(f"{found['name']} is one of group {found['group']}, which makes another; {fewer}", err=True)
    if found["state"] in ("running", "starting", "paused", "unknown") and not yes:
        if not sys.stdin.isatty():
            raise InvalidInput(f"{found['name']} is {found['state']}", field="instance", fix="add --yes to remove it")
        click.confirm(f"{found['name']} is {found['state']}. Remove it and its writable layer?", abort=True)
    ask = partial(
        client.delete,
        f"/api/v1/instances/{found['id']}",
        confirm="true",
        force="true" if force else None,
        stop_timeout=timeout,
        volumes=None if volumes == "keep" else volumes,
    )
    settle(client, ask(), {"terminated"}, no_wait, as_json, again=ask)


def wait(
    client: Client,
    instance: Any,
    wanted: set[str],
    progress: Progress,
    deadline: float,
    *,
    again: Callable[[], Any] | None = None,
) -> Any:
    """Return the instance once it is in one of the ``wanted`` states; an interrupt says what goes on without us."""
    try:
        if "running" in wanted:
            return wait_until_up(client, instance, progress, deadline)
        return wait_for_state(client, instance, wanted, progress, deadline, again=again)
    except KeyboardInterrupt:
        progress.done()
        wish, name = "paused" if instance.get("paused") else instance["desired_state"], instance["name"]
        undo = "" if wish == "terminated" else f"; to remove it: zeitwork rm {name}"
        click.echo(f"{name} goes on to be {wish} without this command{undo}", err=True)
        raise


def settle(
    client: Client,
    instance: Any,
    wanted: set[str],
    no_wait: bool,
    as_json: bool,
    *,
    again: Callable[[], Any] | None = None,
) -> None:
    """Wait until an instance is in one of the ``wanted`` states, and say what it is; ``again`` repeats the request.

    Raises `Failed`.
    """
    progress = Progress(quiet=as_json)
    if not no_wait:
        try:
            instance = wait(client, instance, wanted, progress, time.monotonic() + 300, again=again)
        finally:
            progress.done()
    if as_json:
        print_json(instance)
        return
    reason = instance.get("reason")
    click.echo(f"{instance['name']} is {instance['state']}" + (f": {reason}" if reason else ""))
    if instance["state"] == instance["desired_state"] == "running":
        for url in urls(instance):
            click.echo(url)


@click.command()
@click.argument("instance")
@click.option("--follow", "-f", is_flag=True, help="Go on as it writes.")
@click.option("--tail", "-n", type=click.IntRange(0), help="Only the last so many lines.")
@click.option(
    "--source",
    type=click.Choice(["console", "monitor", "figures"]),
    default="console",
    show_default=True,
    help="The guest's console, or its monitor's own log or figures.",
)
@talks_to_host
def logs(client: Client, instance: str, follow: bool, tail: int | None, source: str, as_json: bool) -> None:
    """Show what an instance wrote to its console. With --follow, --json prints one object per line.

    \b
    Examples:
      zeitwork logs web --tail 50
      zeitwork logs web -f
      zeitwork logs web --source monitor
    """
    found = client.instance(instance, gone=True)
    path = f"/api/v1/instances/{found['id']}/logs"
    with client.stream(
        path, follow="true" if follow else None, tail=tail, source=None if source == "console" else source
    ) as pieces:
        if as_json and follow:
            for line in _lines(pieces):
                click.echo(json.dumps({"instance": found["id"], "line": line}, ensure_ascii=False))
            return
        if as_json:
            print_json([{"instance": found["id"], "line": line} for line in _lines(pieces)])
            return
        for piece in pieces:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()


def _lines(pieces: Iterator[bytes]) -> Iterator[str]:
    """Yield lines as they are complete, without their ends; the last one may lack its own."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace").removesuffix("\r")
    if rest:
        yield rest.decode(errors="replace")
