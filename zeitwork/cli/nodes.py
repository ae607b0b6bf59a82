"""``nodes``, ``cordon``, ``uncordon``, ``drain``: hosts, what they have left, and what they may take."""

from __future__ import annotations

import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import click

from actors.model.errors import Failed, NotFound, Problem
from actors.model.units import format_mib
from zeitwork.cli import members
from zeitwork.cli.client import Client
from zeitwork.cli.options import parse_taint, talks_to_host
from zeitwork.cli.output import Progress, age, print_json, table
from zeitwork.cli.waiting import FIRST_PAUSE, look, pause_until

#: Instances that a sentence names.
_NAMED = 10


@click.group(invoke_without_command=True)
@talks_to_host
@click.pass_context
def nodes(context: click.Context, client: Client, as_json: bool) -> None:
    """List hosts with what is free of what they have, and why one takes nothing new; taint them.

    MEMBER is what the host asked hears of each by gossip, and for how long; while the database is away that is all
    that is shown.

    \b
    Examples:
      zeitwork nodes
      zeitwork nodes --json
      zeitwork nodes taint h3 gpu
    """
    if context.invoked_subcommand is None:
        _list(client, as_json)
    elif any(context.params.values()):
        raise click.UsageError(f"options come behind it: zeitwork nodes {context.invoked_subcommand} --json", context)


@nodes.command("ls")
@talks_to_host
def listing(client: Client, as_json: bool) -> None:
    """List hosts."""
    _list(client, as_json)


@nodes.command()
@click.argument("node")
@click.argument("taints", nargs=-1, required=True, metavar="KEY[=VALUE]...")
@talks_to_host
def taint(client: Client, node: str, taints: tuple[str, ...], as_json: bool) -> None:
    """Keep away from a host what does not tolerate KEY=VALUE. What is there stays; NODE is a hostname or id.

    \b
    Examples:
      zeitwork nodes taint h3 gpu
      zeitwork nodes taint h3 team=red
    """
    new = [parse_taint(text, "KEY[=VALUE]") for text in taints]
    found = client.node(node)
    keys = {one["key"] for one in new}
    _write_taints(client, found, [one for one in found["taints"] if one["key"] not in keys] + new, as_json)


@nodes.command()
@click.argument("node")
@click.argument("taints", nargs=-1, required=True, metavar="KEY[=VALUE]...")
@talks_to_host
def untaint(client: Client, node: str, taints: tuple[str, ...], as_json: bool) -> None:
    """Take taints from a host: those of KEY, or only KEY=VALUE.

    \b
    Examples:
      zeitwork nodes untaint h3 gpu
    """
    found = client.node(node)
    left = list(found["taints"])
    for text in taints:
        gone = parse_taint(text, "KEY[=VALUE]")
        stay = [one for one in left if one["key"] != gone["key"] or ("=" in text and one != gone)]
        if stay == left:
            has = ", ".join(_taint(one) for one in left) or "none"
            raise NotFound(f"{found['hostname']} has no taint {text}", field="KEY[=VALUE]", fix=f"it has {has}")
        left = stay
    _write_taints(client, found, left, as_json)


@click.command()
@click.argument("node")
@talks_to_host
def cordon(client: Client, node: str, as_json: bool) -> None:
    """Place nothing new on a host. What is there stays; NODE is a hostname or id.

    \b
    Examples:
      zeitwork cordon h3
      zeitwork uncordon h3
    """
    found = _ask(client, client.node(node), "cordoned")
    _say(found, f"{found['hostname']} takes nothing new; to undo it: zeitwork uncordon {found['hostname']}", as_json)


@click.command()
@click.argument("node")
@talks_to_host
def uncordon(client: Client, node: str, as_json: bool) -> None:
    """Let a host take instances again after a cordon or drain. What has moved away stays where it is.

    \b
    Examples:
      zeitwork uncordon h3
    """
    found = _ask(client, client.node(node), "ready")
    state = "takes instances again" if found["state"] == "ready" else f"is {found['state']}"
    _say(found, f"{found['hostname']} {state}", as_json)


@click.command()
@click.argument("node")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until nothing is left there.")
@click.option("--timeout", type=click.FloatRange(1), default=600.0, show_default=True, help="Seconds to wait.")
@talks_to_host
def drain(client: Client, node: str, wait: bool, timeout: float, as_json: bool) -> None:
    """Move everything off a host, and place nothing new there; NODE is a hostname or id.

    Each instance runs elsewhere before it stops here, but a singleton, which stops first. What finds no room elsewhere
    goes on, and is waited for; what can't run elsewhere at all stays, and ends the waiting with what it is.

    \b
    Examples:
      zeitwork drain h3
      zeitwork drain h3 --timeout 60
      zeitwork drain h3 --no-wait
    """
    found = _ask(client, client.node(node), "draining")
    progress = Progress(quiet=as_json)
    try:
        if wait:
            found = _wait_until_empty(client, found, progress, time.monotonic() + timeout)
    except KeyboardInterrupt:
        progress.done()
        name = found["hostname"]
        click.echo(f"{name} is emptied without this command too; to stop that: zeitwork uncordon {name}", err=True)
        raise
    finally:
        progress.done()
    left = (found.get("drain") or {}).get("placements", 0)
    if as_json:
        print_json(found | {"remaining": [_brief(one, why) for one, why in _remaining(client, found)] if left else []})
        return
    said = f"{left} left on it; see zeitwork nodes" if left else "it is empty"
    click.echo(f"{found['hostname']} is draining: {said}")


def _wait_until_empty(client: Client, node: Any, progress: Progress, deadline: float) -> Any:
    """Return the node once nothing is left there.

    Raises `Failed` with what remains and why: at once when none of it can run elsewhere, else at ``deadline``.
    """
    name, pause = node["hostname"], FIRST_PAUSE
    while True:
        state = node["drain"]
        if state is None:
            raise Failed(f"{name} is not to be emptied any more: somebody opened it again", code="drain-ended")
        left, bound = state["placements"], state["pinned"] + state["restored"]
        if not left:
            return node
        remaining = _named(_remaining(client, node))
        if left == bound:
            raise Failed(
                f"{bound} on {name} can't run elsewhere: {remaining}",
                fix="stop or remove what is left, or leave it there: zeitwork stop NAME",
                code="drain-stuck",
            )
        said = f"{name}: {left} left: {remaining}" if remaining else f"{name}: {left} left"
        progress.show(said)
        fix = f"it goes on by itself: zeitwork nodes; zeitwork uncordon {name} ends it"
        pause = pause_until(pause, deadline, said, fix)
        node = look(client, f"/api/v1/nodes/{node['id']}", progress, deadline)


def _remaining(client: Client, node: Any) -> list[tuple[Any, str]]:
    """Return the instances on a node, each with why it is still there."""
    return [(one, _why(one, node["id"])) for one in client.pages("/api/v1/instances", node_id=node["id"])]


def _why(instance: Any, node_id: str) -> str:
    if instance["desired_state"] != "running":
        return str(instance["state"])
    if instance["pinned_node_id"] == node_id:
        return "pinned to it"
    if instance["snapshot_id"]:
        return "goes on from a snapshot there"
    return instance["reason"] or ("never two at once" if instance.get("singleton") else str(instance["state"]))


def _named(remaining: Iterable[tuple[Any, str]]) -> str:
    found = [f"{one['name']} ({why})" for one, why in remaining]
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more


def _brief(instance: Any, why: str) -> dict[str, Any]:
    return {"id": instance["id"], "name": instance["name"], "state": instance["state"], "reason": why}


def _ask(client: Client, node: Any, state: str) -> Any:
    return client.put(f"/api/v1/nodes/{node['id']}/state", {"state": state})


def _write_taints(client: Client, node: Any, taints: list[dict[str, str]], as_json: bool) -> None:
    found = client.put(f"/api/v1/nodes/{node['id']}/taints", {"taints": taints})
    named = ", ".join(_taint(one) for one in found["taints"])
    _say(found, f"{found['hostname']} has {f'taints {named}' if named else 'no taints'}", as_json)


def _say(node: Any, sentence: str, as_json: bool) -> None:
    if as_json:
        print_json(node)
    else:
        click.echo(sentence)


def _taint(one: Any) -> str:
    return f"{one['key']}={one['value']}" if one["value"] else str(one["key"])


def _state(node: Any) -> str:
    """Return a node's state with what people asked of it."""
    said = [node["state"]]
    if node["desired_state"] == "cordoned" or (node["desired_state"] == "draining" and node["state"] != "draining"):
        said.append(node["desired_state"])
    if node["closed"]:
        said.append("closed")
    if node.get("drain"):
        bound = node["drain"]["pinned"] + node["drain"]["restored"]
        said.append(f"{node['drain']['placements']} left" + (f" ({bound} can't move)" if bound else ""))
    return ", ".join(said)


def _list(client: Client, as_json: bool) -> None:
    try:
        found = list(client.pages("/api/v1/nodes"))
    except Problem as problem:
        if problem.status != HTTPStatus.SERVICE_UNAVAILABLE:
            raise
        members.show_instead(client, problem, as_json)
        return
    linked = any(item.get("membership") for item in found)
    if as_json:
        print_json(found)
        return
    table(
        (
            "HOSTNAME", "STATE", *(("MEMBER", "LOAD") if linked else ()), "VCPU FREE/ALL", "MEMORY FREE/ALL",
            "CPU WAIT", "REGION", "LABELS", "TAINTS", "HYPERVISOR", "ADDRESS", "AGE", "ID", "REASON",
        ),
        (
            (
                item["hostname"],
                _state(item),
                *(members.cells(item.get("membership")) if linked else ()),
                f"{item['resources']['vcpu_available']}/{item['resources']['vcpu']}",
                f"{format_mib(item['resources']['memory_available'])}/{format_mib(item['resources']['memory'])}",
                f"{item.get('pressure', 0):.0%}",
                item["region"],
                " ".join(f"{key}={value}" for key, value in sorted(item.get("labels", {}).items())),
                " ".join(_taint(one) for one in item.get("taints", ())),
                f"{item['hypervisor']} {item['architecture']}" if item.get("hypervisor") else None,
                item["ip_address"],
                age(item["created_at"]),
                item["id"],
                item["reason"],
            )
            for item in found
        ),
    )  # fmt: skip
