"""``deploy``, ``ps``, ``start``, ``stop``, ``rm``, ``logs``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import click

from actors.model.errors import InvalidInput
from actors.model.health import HealthType
from actors.model.restart import RestartMode
from actors.model.units import format_mib, parse_mib
from zeitwork.cli.client import Client
from zeitwork.cli.options import talks_to_host
from zeitwork.cli.output import Progress, age, print_json, table
from zeitwork.cli.sources import add_image
from zeitwork.cli.waiting import wait_for_image, wait_for_state, wait_until_up


def urls(instance: Any) -> list[str]:
    """Return where an instance answers, IPv6 first."""
    port = instance["default_port"]
    found = []
    if instance.get("ipv6"):
        found.append(f"http://[{instance['ipv6']}]:{port}")
    if instance.get("ipv4"):
        found.append(f"http://{instance['ipv4']}:{port}")
    return found


@click.command()
@click.argument("source")
@click.option("--name", help="Name of the instance, a DNS label.  [default: a short id]")
@click.option("--port", type=click.IntRange(1, 65535), help="Port the app listens on.  [default: the image's, or 8080]")
@click.option("--vcpu", type=click.IntRange(1), default=1, show_default=True, help="Virtual CPUs.")
@click.option("--memory", default="256MiB", show_default=True, help="Memory, for example 512MiB or 1GiB.")
@click.option("--disk", default="1GiB", show_default=True, help="Size limit of the writable layer.")
@click.option("--env", "-e", "env", multiple=True, metavar="KEY=VALUE", help="Environment variable; may be repeated.")
@click.option("--env-file", type=click.Path(path_type=Path), help="File of KEY=VALUE lines.")
@click.option(
    "--restart",
    default="always",
    show_default=True,
    metavar="always|on-failure|never",
    help="Start it again when it ends by itself; on-failure:5 tries five times in a row.",
)
@click.option(
    "--health",
    default="none",
    show_default=True,
    metavar="none|tcp|http:/PATH",
    help="How to see that the app works; one that does not is restarted.",
)
@click.option("--timeout", type=click.FloatRange(1), default=600.0, show_default=True, help="Seconds to wait.")
@click.option("--detach", "-d", is_flag=True, help="Do not wait until the app runs.")
@talks_to_host
def deploy(
    client: Client,
    source: str,
    name: str | None,
    port: int | None,
    vcpu: int,
    memory: str,
    disk: str,
    env: tuple[str, ...],
    env_file: Path | None,
    restart: str,
    health: str,
    timeout: float,
    detach: bool,
    as_json: bool,
) -> None:
    """Start one instance of an app and print its address.

    SOURCE is a registry reference, an archive made by `docker save`, an OCI layout (folder or archive), or - for an
    archive on standard input.

    \b
    Examples:
      zeitwork deploy ghcr.io/acme/web:1.4
      zeitwork deploy ./web.tar --memory 512MiB -e LOG_LEVEL=debug
      docker save web | zeitwork deploy - --name web --port 3000
      zeitwork deploy ./job.tar --restart on-failure:5
      zeitwork deploy ./web.tar --health http:/healthz
    """
    deadline = time.monotonic() + timeout
    body: dict[str, Any] = {
        "resources": {"vcpu": vcpu, "memory": parse_mib(memory), "disk": parse_mib(disk, field="disk")},
        "environment_variables": _environment(env, env_file),
    }
    # Only what somebody asked for: a host that is older than this command may not know the field.
    if (policy := _restart(restart)) != {"mode": RestartMode.ALWAYS}:
        body["restart_policy"] = policy
    if (check := _health(health)) != {"type": HealthType.NONE}:
        body["health"] = check
    progress = Progress(quiet=as_json)
    try:
        image = wait_for_image(client, add_image(client, source), progress, deadline)
        body["image_id"] = image["id"]
        ports = (image.get("config") or {}).get("exposed_ports") or [8080]
        body["default_port"] = port or ports[0]
        if name:
            body["name"] = name
        # One key for this command: were the answer lost and the request sent again, it would still be one instance.
        instance = client.post("/api/v1/instances", body, key=str(uuid4()))
        if not detach:
            instance = _wait(client, instance, {"running"}, progress, deadline)
    finally:
        progress.done()
    if as_json:
        print_json(instance)
        return
    click.echo(f"{instance['name']} is {instance['state']}  ({instance['id']})", err=True)
    for url in urls(instance):
        click.echo(url)


def _restart(text: str) -> dict[str, Any]:
    mode, separator, attempts = text.partition(":")
    if mode not in list(RestartMode) or (separator and not (attempts.isascii() and attempts.isdigit())):
        raise InvalidInput(
            f"{text!r} is no restart policy", field="--restart", fix="always, on-failure or never; on-failure:5"
        )
    return {"mode": mode} | ({"max_attempts": int(attempts)} if separator else {})


def _health(text: str) -> dict[str, Any]:
    kind, separator, path = text.partition(":")
    if kind not in list(HealthType) or (separator and kind != HealthType.HTTP):
        raise InvalidInput(f"{text!r} is no health check", field="--health", fix="none, tcp, http or http:/PATH")
    return {"type": kind} | ({"path": path} if separator else {})


def _environment(pairs: tuple[str, ...], file: Path | None) -> dict[str, str]:
    lines: list[tuple[str, str]] = []
    if file is not None:
        try:
            text = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{file} can't be read: {error}", field="--env-file") from None
        lines += [
            (f"{file}:{number}", line)
            for number, line in enumerate(text.splitlines(), 1)
            if line.strip() and not line.lstrip().startswith("#")
        ]
    lines += [("--env", pair) for pair in pairs]
    found = {}
    for origin, line in lines:
        key, separator, value = line.partition("=")
        if not separator or not key.strip():
            raise InvalidInput(f"{line!r} is not KEY=VALUE", field=origin, fix="write for example LOG_LEVEL=debug")
        found[key.strip()] = value
    return found


@click.command()
@click.option("--all", "-a", "everything", is_flag=True, help="Show terminated instances too.")
@talks_to_host
def ps(client: Client, everything: bool, as_json: bool) -> None:
    """List instances.

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
    table(
        ("NAME", "STATE", "ADDRESS", "PORT", "VCPU", "MEMORY", "AGE", "ID", "REASON"),
        (
            (
                item["name"],
                f"{item['state']} (unhealthy)" if item.get("health_status") == "unhealthy" else item["state"],
                item.get("ipv6") or item.get("ipv4"),
                item["default_port"],
                item["resources"]["vcpu"],
                format_mib(item["resources"]["memory"]),
                age(item["created_at"]),
                item["id"],
                item.get("reason"),
            )
            for item in found
        ),
    )


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
    found = client.post(f"/api/v1/instances/{client.instance(instance)['id']}/stop", body)
    settle(client, found, {"stopped", "failed", "terminated"}, no_wait, as_json)


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
@click.option("--force", is_flag=True, help="Kill the app instead of stopping it.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask, even when it runs.")
@click.option("--no-wait", is_flag=True, help="Do not wait until nothing is left of it.")
@talks_to_host
def rm(client: Client, instance: str, force: bool, yes: bool, no_wait: bool, as_json: bool) -> None:
    """Remove an instance: its VM, its writable layer and its addresses.

    \b
    Examples:
      zeitwork rm web
      zeitwork rm web --yes --force
    """
    found = client.instance(instance)
    if found["state"] in ("running", "starting", "paused") and not yes:
        if not sys.stdin.isatty():
            raise InvalidInput(f"{found['name']} is {found['state']}", field="instance", fix="add --yes to remove it")
        click.confirm(f"{found['name']} is {found['state']}. Remove it and its writable layer?", abort=True)
    found = client.delete(f"/api/v1/instances/{found['id']}", confirm="true", force="true" if force else None)
    settle(client, found, {"terminated"}, no_wait, as_json)


def _wait(client: Client, instance: Any, wanted: set[str], progress: Progress, deadline: float) -> Any:
    try:
        if "running" in wanted:
            return wait_until_up(client, instance, progress, deadline)
        return wait_for_state(client, instance, wanted, progress, deadline)
    except KeyboardInterrupt:
        progress.done()
        wish, name = "paused" if instance.get("paused") else instance["desired_state"], instance["name"]
        undo = "" if wish == "terminated" else f"; to remove it: zeitwork rm {name}"
        click.echo(f"{name} goes on to be {wish} without this command{undo}", err=True)
        raise


def settle(client: Client, instance: Any, wanted: set[str], no_wait: bool, as_json: bool) -> None:
    """Wait until an instance is in one of the ``wanted`` states, and say what it is. Raises `Failed`."""
    progress = Progress(quiet=as_json)
    if not no_wait:
        try:
            instance = _wait(client, instance, wanted, progress, time.monotonic() + 300)
        finally:
            progress.done()
    if as_json:
        print_json(instance)
        return
    reason = instance.get("reason")
    click.echo(f"{instance['name']} is {instance['state']}" + (f": {reason}" if reason else ""))
    if instance["state"] == "running":
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
    found = client.instance(instance)
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
