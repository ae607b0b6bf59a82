"""``zeitwork doctor``."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import click

from zeitwork.cli.output import print_json, table
from zeitwork.config import load
from zeitwork.doctor.run import run_doctor


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), help="The host's data.  [default: /var/lib/zeitwork]")
@click.option("--config", "file", type=click.Path(path_type=Path), help="The host's configuration file.")
@click.option("--http", metavar="HOST:PORT", help="The control endpoint that a host would listen on.")
@click.option("--advertise", metavar="ADDR[:PORT]", help="How other hosts would reach this one.")
@click.option("--database-url", metavar="DSN", help="The Postgres that a host would use.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def doctor(
    data_dir: Path | None,
    file: Path | None,
    http: str | None,
    advertise: str | None,
    database_url: str | None,
    as_json: bool,
) -> int:
    """Say what is missing or wrong on this machine, and the command that mends it. Changes nothing.

    The exit status is 1 when something would keep a host from running, else 0.

    \b
    Examples:
      zeitwork doctor
      zeitwork doctor --json | jq '.[] | select(.status != "ok")'
    """
    flags = {"data_dir": data_dir, "http": http, "advertise": advertise, "database_url": database_url}
    checks = run_doctor(load(flags, os.environ, file))
    failed = [check for check in checks if check.status == "fail"]
    if as_json:
        print_json([asdict(check) for check in checks])
        return 1 if failed else 0
    table(("CHECK", "STATUS", "DETAIL"), ((check.name, check.status, check.detail) for check in checks))
    mends = [check for check in checks if check.status != "ok" and check.fix]
    if mends:
        click.echo("\nWhat mends it:")
        table((" ", " "), ((f"  {check.name}", check.fix) for check in mends))
    return 1 if failed else 0
