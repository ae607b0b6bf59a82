"""``events``: what happened to an instance, and what other hosts were told about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from zeitwork.cli.client import Client
from zeitwork.cli.options import talks_to_host
from zeitwork.cli.output import age, print_json, table

#: What is said in other columns, or is for programs.
_LEFT_OUT = ("instance_id", "placement_id", "node_id")


@click.command()
@click.argument("instance")
@click.option("--tail", "-n", type=click.IntRange(0), help="Only the last so many.")
@talks_to_host
def events(client: Client, instance: str, tail: int | None, as_json: bool) -> None:
    """Show what happened to an instance, oldest first: changes, its placements, commands to its host and their answers.

    \b
    Examples:
      zeitwork events web
      zeitwork events web -n 20
    """
    found = list(client.pages(f"/api/v1/instances/{client.instance(instance, gone=True)['id']}/events"))
    if tail is not None:
        found = found[len(found) - min(tail, len(found)) :]
    if as_json:
        print_json(found)
        return
    hosts = {node["id"]: node["hostname"] for node in client.pages("/api/v1/nodes")} if found else {}
    table(
        ("AGE", "WHO", "WHAT", "HOST", "DETAILS"),
        (
            (
                age(event["at"]),
                event["who"],
                event["what"],
                hosts.get(event["data"].get("node_id"), event["data"].get("node_id")),
                details(event["data"]),
            )
            for event in found
        ),
    )


def details(data: Mapping[str, Any]) -> str:
    """Return an event's data on one line: what it was and became, the rest by name, and its reason last."""
    parts = []
    if "from" in data and "to" in data and not isinstance(data["from"], list):
        parts.append(f"{data['from']} -> {data['to']}")
    else:
        parts += [f"{name} {data[name]}" for name in ("from", "to") if name in data]
    named = {name: value for name, value in data.items() if name not in (*_LEFT_OUT, "from", "to", "reason")}
    parts += [
        f"{name} {value}" for name, value in named.items() if not isinstance(value, bool) and value not in (None, "")
    ]
    parts += [name for name, value in named.items() if value is True]
    if data.get("reason"):
        parts.append(str(data["reason"]))
    return ", ".join(parts)
