"""``nodes``: hosts and what they have left."""

from __future__ import annotations

import click

from actors.model.units import format_mib
from zeitwork.cli.client import Client
from zeitwork.cli.options import talks_to_host
from zeitwork.cli.output import age, print_json, table


@click.command()
@talks_to_host
def nodes(client: Client, as_json: bool) -> None:
    """List hosts with what is free of what they have, and why one takes nothing new.

    \b
    Examples:
      zeitwork nodes
      zeitwork nodes --json
    """
    found = list(client.pages("/api/v1/nodes"))
    if as_json:
        print_json(found)
        return
    table(
        ("HOSTNAME", "STATE", "VCPU FREE/ALL", "MEMORY FREE/ALL", "ADDRESS", "AGE", "ID", "REASON"),
        (
            (
                item["hostname"],
                f"{item['state']}, closed" if item["closed"] else item["state"],
                f"{item['resources']['vcpu_available']}/{item['resources']['vcpu']}",
                f"{format_mib(item['resources']['memory_available'])}/{format_mib(item['resources']['memory'])}",
                item["ip_address"],
                age(item["created_at"]),
                item["id"],
                item["reason"],
            )
            for item in found
        ),
    )
