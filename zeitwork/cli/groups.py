"""``groups`` and ``scale``, and what other commands do with groups."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from actors.model.errors import Failed, InvalidInput
from actors.model.scheduling import MAX_REPLICAS
from zeitwork.cli.client import Client
from zeitwork.cli.options import talks_to_host
from zeitwork.cli.output import Progress, age, print_json, table, urls
from zeitwork.cli.waiting import FIRST_PAUSE, STAYS, look, pause_until


@click.command()
@talks_to_host
def groups(client: Client, as_json: bool) -> None:
    """List groups: how many instances each shall have, how many run, and what keeps the others back.

    \b
    Examples:
      zeitwork groups
      zeitwork groups --json | jq '.[] | select(.running < .replicas).name'
    """
    found = list(client.pages("/api/v1/groups"))
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("no groups; make one with: zeitwork deploy IMAGE --name NAME --replicas N", err=True)
        return
    table(
        ("NAME", "WANTED", "RUNNING", "IMAGE", "AGE", "ID", "REASON"),
        (
            (
                item["name"],
                0 if item["deleted_at"] else item["replicas"],
                item["running"],
                item["image"],
                age(item["created_at"]),
                item["id"],
                item["reason"],
            )
            for item in found
        ),
    )


@click.command()
@click.argument("group")
@click.argument("replicas", type=click.IntRange(0, MAX_REPLICAS), metavar="N")
@click.option("--timeout", type=click.FloatRange(1), default=600.0, show_default=True, help="Seconds to wait.")
@click.option("--no-wait", is_flag=True, help="Do not wait until so many run.")
@talks_to_host
def scale(client: Client, group: str, replicas: int, timeout: float, no_wait: bool, as_json: bool) -> None:
    """Change how many instances a group has.

    \b
    Examples:
      zeitwork scale web 5
      zeitwork scale web 0
    """
    found = client.put(f"/api/v1/groups/{client.group(group)['id']}/replicas", {"replicas": replicas})
    progress = Progress(quiet=as_json)
    try:
        members = [] if no_wait else wait_for_members(client, found, progress, time.monotonic() + timeout)
        show_group(client, found, members, as_json, progress)
    finally:
        progress.done()


def wait_for_members(client: Client, group: Any, progress: Progress, deadline: float) -> list[Any]:
    """Return a group's instances once they are as many as wanted and all run, for long enough to be believed.

    One that somebody stopped is not waited for. Raises `Failed` when one ends instead, when the group is deleted
    meanwhile, or at ``deadline`` (monotonic seconds) with what keeps them back.
    """
    path, name = f"/api/v1/groups/{group['id']}", group["name"]
    pause, stays = FIRST_PAUSE, None
    try:
        while True:
            group = look(client, path, progress, deadline)
            if group["deleted_at"]:
                raise Failed(f"{name} was removed meanwhile", code="group-deleted")
            members = list(client.pages(f"{path}/instances"))
            running = [one for one in members if one["state"] == "running"]
            stopped = [one for one in members if one["desired_state"] == "stopped"]
            for one in members:
                if one["state"] in ("failed", "crash_loop") and one["desired_state"] == "running":
                    raise Failed(
                        f"{one['name']} is {one['state']}: {one['reason'] or 'no reason was given'}",
                        fix=f"zeitwork logs {one['name']}; it is tried again meanwhile, zeitwork rm {name} gives up",
                        code=f"instance-{one['state']}",
                    )
            said = f"{name}: {len(running)} of {group['replicas']} running"
            if len(members) == group["replicas"] == len(running) + len([one for one in stopped if one not in running]):
                # An app that ends at once is told as the failure it is.
                stays = stays or time.monotonic() + (STAYS if running else 0.0)
                if time.monotonic() >= stays:
                    return sorted(members, key=lambda one: int(one["slot"]))
            else:
                stays = None
                more = f", {len(members)} there" if len(members) > group["replicas"] else ""
                said += more + (f" ({group['reason']})" if group["reason"] else "")
            progress.show(said)
            fix = f"it goes on by itself: zeitwork groups; zeitwork rm {name} gives up"
            pause = pause_until(pause, deadline, said, fix)
    except KeyboardInterrupt:
        progress.done()
        click.echo(f"{name} goes on without this command; to remove it: zeitwork rm {name}", err=True)
        raise


def show_group(client: Client, group: Any, members: list[Any], as_json: bool, progress: Progress) -> None:
    """Say what a group is now and where its ``members`` answer."""
    progress.done()
    group = client.get(f"/api/v1/groups/{group['id']}")
    if as_json:
        print_json(group | {"instances": members})
        return
    click.echo(f"{group['name']}: {group['running']} of {group['replicas']} running  ({group['id']})", err=True)
    for one in members:
        for url in urls(one):
            click.echo(url)


def remove_group(client: Client, group: Any, *, yes: bool, force: bool, no_wait: bool, as_json: bool) -> None:
    """Remove a group and wait until nothing is left of it. Raises `Failed` when that takes too long."""
    name = group["name"]
    if force:
        raise InvalidInput(f"{name} is a group: its instances are stopped, not killed", field="--force", fix="leave it")
    if group["running"] and not yes:
        said = f"{group['running']} instances of {name} are running"
        if not sys.stdin.isatty():
            raise InvalidInput(said, field="instance", fix="add --yes to remove them")
        click.confirm(f"{said}. Remove the group, and them with their writable layers?", abort=True)
    path, progress = f"/api/v1/groups/{group['id']}", Progress(quiet=as_json)
    group = client.delete(path, confirm="true")
    deadline, pause = time.monotonic() + 300, FIRST_PAUSE
    try:
        while not no_wait and not group["gone_at"]:
            progress.show(f"{name} is {group['reason']}")
            pause = pause_until(pause, deadline, f"{name} is {group['reason']}", "it goes on by itself: zeitwork ps")
            group = look(client, path, progress, deadline)
    except KeyboardInterrupt:
        progress.done()
        click.echo(f"{name} goes on to be removed without this command", err=True)
        raise
    finally:
        progress.done()
    if as_json:
        print_json(group)
        return
    click.echo(f"{name} is removed" if group["gone_at"] else f"{name} is {group['reason']}")
