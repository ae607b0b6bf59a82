"""``zeitwork setup``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from actors.model.errors import Failed
from zeitwork.config import Config, load
from zeitwork.setup import network
from zeitwork.setup import plan as planning
from zeitwork.setup.facts import look
from zeitwork.setup.manifest import Manifest
from zeitwork.setup.options import SetupOptions, SetupResult
from zeitwork.setup.ready import ensure_ready
from zeitwork.setup.remove import plan_removal
from zeitwork.setup.run import run_remove, run_setup
from zeitwork.setup.terminal import TerminalUi
from zeitwork.setup.tools import SystemTools


@click.command()
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--systemd", is_flag=True, help="Also install and enable zeitwork.service.")
@click.option("--remove", is_flag=True, help="Take back what setup changed, and nothing more.")
@click.option("--purge", is_flag=True, help="With --remove: also delete the data (database, images, disks).")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="The host's data.  [default: /var/lib/zeitwork]")
@click.option("--config", "file", type=click.Path(path_type=Path), help="The host's configuration file.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def setup(
    yes: bool,
    systemd: bool,
    remove: bool,
    purge: bool,
    dry_run: bool,
    data_dir: Path | None,
    file: Path | None,
    as_json: bool,
) -> int:
    """Bring what this machine lacks, or take it away again. Needs root.

    Shows every change before it makes any, and asks. Each change is written down in setup.json in the data
    directory, so that --remove undoes exactly those.

    \b
    Examples:
      zeitwork setup                    show what is missing, ask, bring it
      zeitwork setup --yes --systemd    for scripts, with a service that starts at boot
      zeitwork setup --remove --purge   take everything back, the data too
    """
    if purge and not remove:
        raise click.UsageError("--purge needs --remove")
    if remove and systemd:
        raise click.UsageError("--systemd and --remove exclude each other")
    options = SetupOptions.of(load({"data_dir": data_dir}, os.environ, file), systemd=systemd)
    if dry_run:
        return _dry_run(options, remove=remove, purge=purge, as_json=as_json)
    ui = TerminalUi()
    words = [
        "setup",
        *(["--remove"] if remove else []),
        *(["--purge"] if purge else []),
        *(["--systemd"] if systemd else []),
    ]
    words += ["--data-dir", str(data_dir)] if data_dir else []
    words += ["--config", str(file)] if file else []
    command = " ".join(words)
    if remove:
        result = run_remove(options, ui, purge=purge, yes=yes, command=command)
    else:
        result = run_setup(options, ui, yes=yes, command=command)
    return _report(result, as_json=as_json)


def setup_if_needed(config: Config | None = None, *, yes: bool, command: str = "demo") -> None:
    """Run setup when a host of this configuration can't start yet; shows the plan and asks unless ``yes``.

    For ``demo`` and its like, which need the hello app. Raises `Failed` when the person says no, and what `run_setup`
    raises.
    """
    options = SetupOptions.of(config or Config())
    missing = ensure_ready(options, hello=True)
    if not missing:
        return
    result = run_setup(options, TerminalUi(), yes=yes, command=command)
    if result.declined:
        raise Failed(
            f"zeitwork {command} can't start without: {', '.join(item.name for item in missing)}",
            fix="zeitwork setup, or answer yes (--yes)",
            code="setup-needed",
        )


def _report(result: SetupResult, *, as_json: bool) -> int:
    if as_json:
        content = {"done": result.done, "warnings": result.warnings, "declined": result.declined}
        click.echo(json.dumps(content, indent=2))
    elif result.declined:
        click.echo("Nothing was changed.", err=True)
    elif result.done:
        click.echo("Done." if not result.warnings else "Done, with warnings:", err=True)
        for warning in result.warnings:
            click.echo(f"  {warning}", err=True)
    return 1 if result.declined else 0


def _dry_run(options: SetupOptions, *, remove: bool, purge: bool, as_json: bool) -> int:
    if remove:
        removals = plan_removal(
            Manifest(options.manifest), options, purge=purge, network_left=network.left(options, SystemTools())
        )
        rows = [{"change": removal.text} for removal in removals]
        text = "\n".join(f"{number}. {removal.text}" for number, removal in enumerate(removals, 1))
    else:
        steps = planning.plan(look(options, SystemTools()), options)
        rows = [
            {"name": s.name, "now": s.present, "change": s.change, "command": s.command, "undo": s.undo} for s in steps
        ]
        text = planning.describe(steps)
    click.echo(json.dumps(rows, indent=2) if as_json else text or "Nothing to do.")
    return 0
