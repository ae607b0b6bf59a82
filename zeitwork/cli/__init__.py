"""The ``zeitwork`` command: people read tables, programs read ``--json`` and the exit status."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import IO, TYPE_CHECKING, Any

import click

from zeitwork import __version__

if TYPE_CHECKING:
    from actors.model.errors import Problem

#: Command -> (module, attribute, one line for the list). Modules are imported only when their command runs, so that
#: ``zeitwork version`` does not pay for a web server.
_COMMANDS = {
    "run": ("zeitwork.cli.host", "run", "Run this host (needs root)."),
    "demo": ("zeitwork.cli.host", "demo", "Start a host and the bundled hello app, and show its address (needs root)."),
    "setup": ("zeitwork.setup.command", "setup", "Bring what this machine lacks, or take it away again (needs root)."),
    "doctor": ("zeitwork.doctor.command", "doctor", "Say what is missing, and the command that mends it."),
    "deploy": ("zeitwork.cli.deploy", "deploy", "Start an app from an image reference or an archive."),
    "ps": ("zeitwork.cli.instances", "ps", "List instances."),
    "groups": ("zeitwork.cli.groups", "groups", "List groups of instances."),
    "scale": ("zeitwork.cli.groups", "scale", "Change how many instances a group has."),
    "start": ("zeitwork.cli.instances", "start", "Start a stopped or failed instance again."),
    "stop": ("zeitwork.cli.instances", "stop", "Stop an instance gracefully."),
    "pause": ("zeitwork.cli.snapshots", "pause", "Make an instance stand still."),
    "resume": ("zeitwork.cli.snapshots", "resume", "Let a paused instance go on."),
    "snapshot": ("zeitwork.cli.snapshots", "snapshot", "Take a snapshot of an instance."),
    "snapshots": ("zeitwork.cli.snapshots", "snapshots", "List and remove snapshots."),
    "restore": ("zeitwork.cli.snapshots", "restore", "Go on from a snapshot."),
    "replace": ("zeitwork.cli.replace", "replace", "Place an instance anew, on another host."),
    "rm": ("zeitwork.cli.instances", "rm", "Remove an instance or group and all that belongs to it."),
    "logs": ("zeitwork.cli.instances", "logs", "Show what an instance wrote."),
    "events": ("zeitwork.cli.events", "events", "Show what happened to an instance."),
    "exec": ("zeitwork.cli.exec", "exec_", "Run a command or a shell in an instance."),
    "images": ("zeitwork.cli.images", "images", "List, add and remove images."),
    "nodes": ("zeitwork.cli.membership", "nodes", "List hosts with their capacity, add, taint and remove them."),
    "cordon": ("zeitwork.cli.nodes", "cordon", "Place nothing new on a host."),
    "uncordon": ("zeitwork.cli.nodes", "uncordon", "Let a host take instances again."),
    "drain": ("zeitwork.cli.nodes", "drain", "Move everything off a host."),
    "leave": ("zeitwork.cli.membership", "leave", "Take this host out of its cluster."),
    "token": ("zeitwork.cli.token", "token", "Let new hosts join the cluster."),
    "db": ("zeitwork.cli.database", "db", "Back up, restore and move the cluster's database (needs root)."),
    "version": ("zeitwork.cli", "version", "Show the version of this command."),
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader (head, less) left: not an error, and nothing more can be said there.
            _silence(sys.stdout)
            return 0
        return result

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in _COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Zeitwork: every app in its own microVM, on your own machines.

    \b
    Examples:
      zeitwork demo                          a host, an app in a real VM, and its address
      zeitwork run                           run this host until SIGTERM; VMs stay
      zeitwork deploy ghcr.io/acme/web:1.4   start an app and print its address
      docker save web | zeitwork deploy -    the same from your own build
      zeitwork scale web 5                   keep five instances of a group
      zeitwork drain h3                      move everything off a host
    """


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def version(as_json: bool) -> None:
    """Show the version of this command.

    \b
    Examples:
      zeitwork version
      zeitwork version --json
    """
    if as_json:
        click.echo(f'{{"version": "{__version__}", "python": "{sys.version.split()[0]}"}}')
    else:
        click.echo(f"zeitwork {__version__}")


def _usage(error: click.ClickException) -> Problem:
    """Return as a refusal what is wrong with a command line: the option or argument, and where its help is."""
    from actors.model.errors import Problem

    context = getattr(error, "ctx", None)
    param = getattr(error, "param", None)
    field = getattr(error, "option_name", None)
    if field is None and isinstance(param, click.Parameter):
        field = param.opts[0] if isinstance(param, click.Option) else param.human_readable_name
    fix = f"{context.command_path} --help" if context is not None else None
    return Problem(error.format_message(), field=field, fix=fix, code="usage")


def _silence(stream: IO[str]) -> None:
    """Let nothing more be written there, the interpreter's flush at its end included."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0 done, 1 a refusal or failure with the reason on standard error, 2 wrong usage or settings, 130 interrupted.
    """
    from actors.model.errors import Problem
    from zeitwork.cli.output import report_problem

    given = sys.argv[1:] if arguments is None else arguments
    # What comes behind -- is the words of somebody else's command.
    as_json = "--json" in (given[: given.index("--")] if "--" in given else given)
    try:
        result = cli.main(args=given, prog_name="zeitwork", standalone_mode=False)
    except Problem as problem:
        report_problem(problem, as_json=as_json)
        return 1
    except click.ClickException as error:
        if as_json:
            report_problem(_usage(error), as_json=True)
        else:
            error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        _silence(sys.stdout)
        report_problem(Problem(f"the output could not be written: {error.strerror}"), as_json=as_json)
        return 1
    return result if isinstance(result, int) else 0
