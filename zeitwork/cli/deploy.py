"""``deploy``: from an image to an app that runs, once or as a group."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import click

from actors.model.errors import InvalidInput
from actors.model.health import HealthType
from actors.model.names import LONGEST, LONGEST_GROUP, check_label
from actors.model.restart import RestartMode
from actors.model.scheduling import MAX_PRIORITY, MAX_REPLICAS, Strategy
from actors.model.units import parse_mib
from zeitwork.cli.client import Client
from zeitwork.cli.groups import show_group, wait_for_members
from zeitwork.cli.instances import wait
from zeitwork.cli.options import parse_taint, talks_to_host
from zeitwork.cli.output import Progress, print_json, urls
from zeitwork.cli.sources import add_image
from zeitwork.cli.waiting import wait_for_image


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
@click.option(
    "--replicas",
    type=click.IntRange(1, MAX_REPLICAS),
    help="Keep so many instances of it, as a group; needs --name.  [default: one instance, no group]",
)
@click.option(
    "--priority",
    type=click.IntRange(0, MAX_PRIORITY),
    help="What is higher is placed first when room is scarce.  [default: 50]",
)
@click.option("--singleton", is_flag=True, help="Two of it must never run at once, even if its host seems dead.")
@click.option("--region", metavar="NAME", help="Only on hosts of this region.")
@click.option(
    "--require-label", multiple=True, metavar="KEY=VALUE", help="Only on hosts with this label; may be repeated."
)
@click.option(
    "--tolerate", multiple=True, metavar="KEY[=VALUE]", help="Hosts with this taint will do too; may be repeated."
)
@click.option(
    "--strategy",
    type=click.Choice([strategy.value for strategy in Strategy]),
    help="Which of the hosts that fit: the fullest, or apart.  [default: spread in a group, else binpack]",
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
    replicas: int | None,
    priority: int | None,
    singleton: bool,
    region: str | None,
    require_label: tuple[str, ...],
    tolerate: tuple[str, ...],
    strategy: str | None,
    timeout: float,
    detach: bool,
    as_json: bool,
) -> None:
    """Start an app and print its address; with --replicas as a group of so many instances.

    SOURCE is a registry reference, an archive made by `docker save`, an OCI layout (folder or archive), or - for an
    archive on standard input.

    \b
    Examples:
      zeitwork deploy ghcr.io/acme/web:1.4
      zeitwork deploy ./web.tar --memory 512MiB -e LOG_LEVEL=debug
      docker save web | zeitwork deploy - --name web --port 3000
      zeitwork deploy ./job.tar --restart on-failure:5
      zeitwork deploy ./web.tar --health http:/healthz
      zeitwork deploy ./web.tar --name web --replicas 3 --require-label disk=ssd
    """
    if replicas is not None and not name:
        raise InvalidInput("a group needs a name", field="--name", fix="add --name NAME")
    if name:
        # Before the image is fetched, which may take minutes.
        check_label(name, "--name", LONGEST if replicas is None else LONGEST_GROUP)
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
    asked: dict[str, Any] = {"priority": priority, "singleton": singleton or None}
    asked["requirements"] = _requirements(region, require_label, tolerate, strategy)
    body |= {field: value for field, value in asked.items() if value not in (None, {})}
    progress = Progress(quiet=as_json)
    try:
        image = wait_for_image(client, add_image(client, source), progress, deadline)
        body["image_id"] = image["id"]
        ports = (image.get("config") or {}).get("exposed_ports") or [8080]
        body["default_port"] = port or ports[0]
        if name:
            body["name"] = name
        # One key for this command: were the answer lost and the request sent again, it would still be one instance.
        if replicas is not None:
            with _told_when_interrupted(name, "groups", progress):
                group = client.post("/api/v1/groups", body | {"replicas": replicas}, key=str(uuid4()))
            members = [] if detach else wait_for_members(client, group, progress, deadline)
            show_group(client, group, members, as_json, progress)
            return
        with _told_when_interrupted(name, "ps", progress):
            instance = client.post("/api/v1/instances", body, key=str(uuid4()))
        if not detach:
            instance = wait(client, instance, {"running"}, progress, deadline)
    finally:
        progress.done()
    if as_json:
        print_json(instance)
        return
    click.echo(f"{instance['name']} is {instance['state']}  ({instance['id']})", err=True)
    for url in urls(instance):
        click.echo(url)


@contextmanager
def _told_when_interrupted(name: str | None, listing: str, progress: Progress) -> Iterator[None]:
    """Say of a request whose answer nobody waits for that it may be carried out all the same."""
    try:
        yield
    except KeyboardInterrupt:
        progress.done()
        click.echo(f"{name or 'it'} may have been made all the same: zeitwork {listing} shows it", err=True)
        raise


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


def _requirements(
    region: str | None, labels: tuple[str, ...], tolerate: tuple[str, ...], strategy: str | None
) -> dict[str, Any]:
    """Return what is asked of hosts, nothing of what was not given."""
    pairs: dict[str, str] = {}
    for text in labels:
        key, separator, value = text.partition("=")
        if not key or not separator:
            raise InvalidInput(f"{text!r} is not KEY=VALUE", field="--require-label", fix="write for example disk=ssd")
        if pairs.setdefault(key, value) != value:
            raise InvalidInput(f"{key} is asked to have two values", field="--require-label", fix="choose one")
    tolerations = [parse_taint(text, "--tolerate") for text in tolerate]
    found = {"region": region, "labels": pairs, "tolerations": tolerations, "strategy": strategy}
    return {field: value for field, value in found.items() if value}


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
