"""``images``: list, add, remove."""

from __future__ import annotations

import time

import click

from actors.model.units import MIB, format_mib
from zeitwork.cli.client import Client
from zeitwork.cli.options import talks_to_host
from zeitwork.cli.output import Progress, age, print_json, table
from zeitwork.cli.sources import add_image
from zeitwork.cli.waiting import wait_for_image


@click.group(invoke_without_command=True)
@talks_to_host
@click.pass_context
def images(context: click.Context, client: Client, as_json: bool) -> None:
    """List, add and remove images.

    \b
    Examples:
      zeitwork images
      zeitwork images add docker.io/library/nginx:1.27
      docker save web | zeitwork images add -
      zeitwork images rm 0198c4f2
    """
    if context.invoked_subcommand is None:
        _list(client, as_json)
    elif any(context.params.values()):
        raise click.UsageError(f"options come behind it: zeitwork images {context.invoked_subcommand} --json", context)


@images.command("ls")
@talks_to_host
def listing(client: Client, as_json: bool) -> None:
    """List images."""
    _list(client, as_json)


def _list(client: Client, as_json: bool) -> None:
    found = list(client.pages("/api/v1/images"))
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("no images; add one with: zeitwork images add REFERENCE", err=True)
        return
    table(
        ("SOURCE", "STATUS", "SIZE", "AGE", "ID", "DIGEST", "ERROR"),
        (
            (
                item["source"],
                item["status"],
                format_mib(-(-item["size"] // MIB)) if item.get("size") else None,
                age(item["created_at"]),
                item["id"],
                (item.get("digest") or "")[:19],
                item.get("error"),
            )
            for item in found
        ),
    )


@images.command("add")
@click.argument("source")
@click.option("--timeout", type=click.FloatRange(1), default=900.0, show_default=True, help="Seconds to wait.")
@click.option("--no-wait", is_flag=True, help="Do not wait until it is ready.")
@talks_to_host
def add(client: Client, source: str, timeout: float, no_wait: bool, as_json: bool) -> None:
    """Add an image: a registry reference, an archive, an OCI layout, or - for standard input."""
    progress = Progress(quiet=as_json)
    try:
        image = add_image(client, source)
        if not no_wait:
            image = wait_for_image(client, image, progress, time.monotonic() + timeout)
    finally:
        progress.done()
    if as_json:
        print_json(image)
        return
    click.echo(f"{image['source']} is {image['status']}", err=True)
    click.echo(image["id"])


@images.command("rm")
@click.argument("image")
@talks_to_host
def remove(client: Client, image: str, as_json: bool) -> None:
    """Remove an image that no instance uses."""
    found = client.image(image)
    client.delete(f"/api/v1/images/{found['id']}")
    if as_json:
        print_json({"id": found["id"], "removed": True})
        return
    click.echo(f"removed {found['source']}")
