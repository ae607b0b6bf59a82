"""``pause``, ``resume``, ``snapshot``, ``snapshots``, ``restore``."""

from __future__ import annotations

import sys
import time
from typing import Any
from uuid import uuid4

import click

from actors.model.errors import InvalidInput
from actors.model.units import MIB, format_mib
from zeitwork.cli.client import Client
from zeitwork.cli.instances import settle
from zeitwork.cli.options import talks_to_host
from zeitwork.cli.output import Progress, age, print_json, table
from zeitwork.cli.waiting import wait_for_snapshot

#: States in which an instance has a writable layer that going back to a snapshot drops.
_ALIVE = ("starting", "running", "paused", "stopping", "crash_loop", "unknown")


@click.command()
@click.argument("instance")
@click.option("--no-wait", is_flag=True, help="Do not wait until it stands still.")
@talks_to_host
def pause(client: Client, instance: str, no_wait: bool, as_json: bool) -> None:
    """Make a running instance stand still: no CPU time, no answers; memory, disk and addresses stay.

    \b
    Examples:
      zeitwork pause web
      zeitwork resume web
    """
    found = client.post(f"/api/v1/instances/{client.instance(instance)['id']}/pause")
    settle(client, found, {"paused"}, no_wait, as_json)


@click.command()
@click.argument("instance")
@click.option("--no-wait", is_flag=True, help="Do not wait until it runs.")
@talks_to_host
def resume(client: Client, instance: str, no_wait: bool, as_json: bool) -> None:
    """Let a paused instance go on, with the time of now.

    \b
    Examples:
      zeitwork resume web
    """
    found = client.post(f"/api/v1/instances/{client.instance(instance)['id']}/resume")
    settle(client, found, {"running"}, no_wait, as_json)


@click.command()
@click.argument("instance")
@click.option("--name", help="A label, to find it by.")
@click.option("--timeout", type=click.FloatRange(1), default=600.0, show_default=True, help="Seconds to wait.")
@click.option("--no-wait", is_flag=True, help="Do not wait until it is ready.")
@talks_to_host
def snapshot(client: Client, instance: str, name: str | None, timeout: float, no_wait: bool, as_json: bool) -> None:
    """Take a snapshot of a running or paused instance: its memory and its disk, at one moment.

    It lies on the instance's host. The instance stands still while it is taken, and goes on afterwards.

    \b
    Examples:
      zeitwork snapshot web
      zeitwork snapshot web --name before-upgrade
      zeitwork restore before-upgrade --into web
    """
    body = {} if name is None else {"name": name}
    path = f"/api/v1/instances/{client.instance(instance)['id']}/snapshot"
    # One key for this command: were the answer lost and the request sent again, it would still be one snapshot.
    found = client.post(path, body, key=str(uuid4()))
    progress = Progress(quiet=as_json)
    try:
        if not no_wait:
            found = wait_for_snapshot(client, found, "ready", progress, time.monotonic() + timeout)
    except KeyboardInterrupt:
        progress.done()
        click.echo(
            f"it is taken without this command too; to give it up: zeitwork snapshots rm {found['id']}", err=True
        )
        raise
    finally:
        progress.done()
    if as_json:
        print_json(found)
        return
    size = f", {_size(found)}" if found.get("size") else ""
    click.echo(f"the snapshot of {found['instance']} is {found['state']}{size}", err=True)
    click.echo(found["id"])


@click.group(invoke_without_command=True)
@talks_to_host
@click.pass_context
def snapshots(context: click.Context, client: Client, as_json: bool) -> None:
    """List and remove snapshots.

    \b
    Examples:
      zeitwork snapshots
      zeitwork snapshots ls --instance web
      zeitwork snapshots rm before-upgrade
    """
    if context.invoked_subcommand is None:
        _list(client, None, as_json)
    elif any(context.params.values()):
        raise click.UsageError(
            f"options come behind it: zeitwork snapshots {context.invoked_subcommand} --json", context
        )


@snapshots.command("ls")
@click.option("--instance", help="Only those of this instance.")
@talks_to_host
def listing(client: Client, instance: str | None, as_json: bool) -> None:
    """List snapshots."""
    _list(client, instance, as_json)


def _list(client: Client, instance: str | None, as_json: bool) -> None:
    only = None if instance is None else client.instance(instance)["id"]
    found = list(client.pages("/api/v1/snapshots", instance_id=only))
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("no snapshots; take one with: zeitwork snapshot INSTANCE", err=True)
        return
    table(
        ("NAME", "INSTANCE", "STATE", "SIZE", "AGE", "ID", "REASON"),
        (
            (
                item["name"],
                item["instance"],
                item["state"],
                _size(item) if item["size"] else None,
                age(item["created_at"]),
                item["id"],
                item["reason"],
            )
            for item in found
        ),
    )


@snapshots.command("rm")
@click.argument("snapshot")
@click.option("--no-wait", is_flag=True, help="Do not wait until its files are gone.")
@talks_to_host
def remove(client: Client, snapshot: str, no_wait: bool, as_json: bool) -> None:
    """Remove a snapshot; what was restored from it goes on without it.

    \b
    Examples:
      zeitwork snapshots rm before-upgrade
      zeitwork snapshots rm 0198c4f2
    """
    found = client.delete(f"/api/v1/snapshots/{client.snapshot(snapshot)['id']}")
    progress = Progress(quiet=as_json)
    try:
        if not no_wait:
            found = wait_for_snapshot(client, found, "deleted", progress, time.monotonic() + 300)
    finally:
        progress.done()
    if as_json:
        print_json(found)
        return
    click.echo(f"the snapshot {found['name'] or found['id']} is {found['state']}")


@click.command()
@click.argument("snapshot")
@click.option("--name", help="Name of the new instance, a DNS label.  [default: a short id]")
@click.option("--into", metavar="INSTANCE", help="Make this instance go back to it, instead of making a new one.")
@click.option("--yes", "-y", is_flag=True, help="With --into: do not ask, even when it runs.")
@click.option("--no-wait", is_flag=True, help="Do not wait until it runs.")
@talks_to_host
def restore(
    client: Client, snapshot: str, name: str | None, into: str | None, yes: bool, no_wait: bool, as_json: bool
) -> None:
    """Go on from a snapshot, in a new instance or with --into in one that is there.

    It runs on from the moment of the snapshot, with addresses, a name and random numbers of its own and the time of
    now. A snapshot can be restored any number of times. With --into, what the instance wrote since is lost.

    \b
    Examples:
      zeitwork restore before-upgrade --name web-copy
      zeitwork restore before-upgrade --into web
      zeitwork restore 0198c4f2 --into web --yes
    """
    if into is not None and name is not None:
        raise click.UsageError("--name and --into exclude each other")
    if into is None and yes:
        raise click.UsageError("--yes belongs to --into: a new instance takes nothing away")
    source = client.snapshot(snapshot)
    if into is None:
        body = {"snapshot_id": source["id"]} | ({} if name is None else {"name": name})
        found = client.post("/api/v1/instances", body, key=str(uuid4()))
    else:
        found = _into(client, client.instance(into), source, yes)
    settle(client, found, {"running"}, no_wait, as_json)


def _into(client: Client, target: Any, source: Any, yes: bool) -> Any:
    what, state = target["name"], target["state"]
    if state in _ALIVE and not yes:
        if not sys.stdin.isatty():
            raise InvalidInput(
                f"{what} is {state}, and what it wrote since would be lost", field="--into", fix="add --yes"
            )
        when = age(source["created_at"])
        click.confirm(f"{what} is {state}. Go back {when} and drop its writable layer?", abort=True)
    body = {"snapshot_id": source["id"], "confirm": True}
    return client.post(f"/api/v1/instances/{target['id']}/restore", body, key=str(uuid4()))


def _size(item: Any) -> str:
    return format_mib(-(-item["size"] // MIB))
