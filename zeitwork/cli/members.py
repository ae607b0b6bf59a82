"""What a host knows of the others by gossip: beside what the database has, and instead of it while that is away."""

from __future__ import annotations

from typing import Any

import click

from actors.model.errors import Problem
from actors.model.units import format_mib
from zeitwork.cli.client import Client
from zeitwork.cli.output import print_json, span, table


def cells(membership: Any) -> tuple[str | None, str | None]:
    """Return what a table says of a host's state with its age, and of its load."""
    if not membership:
        return None, None
    state = f"{membership['state']} {span(membership['age'])}"
    if membership["refused"] and membership["state"] in ("suspect", "dead"):
        state += ", process gone"
    load = membership["load"]
    return state, f"{load['load']:.2f}/{load['cpus']:g}" if load else None


def show_instead(client: Client, problem: Problem, as_json: bool) -> None:
    """List hosts by gossip alone, and say so on standard error; ``problem`` is why. Raises it where there is none."""
    try:
        found = list(client.pages("/api/v1/members"))
    except Problem as other:
        raise problem from other
    click.echo(f"{problem.detail}; this is what the host at {client.where} knows by gossip", err=True)
    if as_json:
        # As much as can be told of what there is otherwise, under the same names.
        print_json([_node(item) for item in found])
        return
    table(
        ("HOSTNAME", "MEMBER", "LOAD", "MEMORY FREE/ALL", "CPU WAIT", "HYPERVISOR", "ADDRESS", "ID"),
        ((item["hostname"], *cells(item), *_measured(item), item["address"], item["node_id"]) for item in found),
    )


def _measured(item: Any) -> tuple[str | None, str | None, str | None]:
    load = item["load"]
    if not load:
        return None, None, item["hypervisor"]
    memory = f"{format_mib(load['memory_available'])}/{format_mib(load['memory'])}"
    return memory, f"{load['pressure']:.0%}", item["hypervisor"]


def _node(item: Any) -> dict[str, Any]:
    membership = {key: item[key] for key in ("state", "age", "refused", "generation", "address", "load")}
    return {
        "id": item["node_id"],
        "hostname": item["hostname"],
        # What the database has of it is not known.
        "state": "unknown",
        "generation": item["generation"],
        "version": item["version"],
        "hypervisor": item["hypervisor"],
        "membership": membership,
    }
