"""``replace``."""

from __future__ import annotations

import sys
from typing import Any

import click

from actors.model.errors import InvalidInput
from zeitwork.cli.client import Client
from zeitwork.cli.instances import settle
from zeitwork.cli.options import talks_to_host

#: States in which nothing of an instance is anywhere that could be lost.
_NOTHING_THERE = ("pending", "stopped", "failed", "terminated")


@click.command()
@click.argument("instance")
@click.option("--force", is_flag=True, help="Replace a singleton too, which is stopped first, or may run twice.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--no-wait", is_flag=True, help="Do not wait until the new one runs.")
@talks_to_host
def replace(client: Client, instance: str, force: bool, yes: bool, no_wait: bool, as_json: bool) -> None:
    """Place an instance anew: it begins from its image, at a new address.

    It serves on where it is until the new one runs. A singleton, of which there must never be two, is replaced with
    --force only: it is stopped first. When its host is down nothing can be stopped there: make sure that the host is
    off, or two of it may run.

    \b
    Examples:
      zeitwork replace web
      zeitwork replace queue --force --yes
    """
    found = client.instance(instance)
    if found["state"] not in _NOTHING_THERE and not yes:
        question = _question(found, force)
        if not sys.stdin.isatty():
            raise InvalidInput(question, field="instance", fix="add --yes to replace it")
        click.confirm(f"{question} Replace it?", abort=True)
    found = client.post(f"/api/v1/instances/{found['id']}/replace", {"force": force, "confirm": True})
    settle(client, found, {"running"}, no_wait, as_json)


def _question(instance: Any, force: bool) -> str:
    said = f"{instance['name']} is {instance['state']}. A new one begins with a fresh writable layer."
    if force and instance["state"] == "unknown":
        return f"{said} If its host is not off, two of it may run."
    return said
