"""``run`` and ``demo``: the commands that are a host."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from actors.model.errors import InvalidInput, Problem
from zeitwork.cli.output import Progress, print_json, problem_of, report_problem
from zeitwork.config import Config, load

#: Seconds for which a thread may keep the interpreter while another one wants it. The loop hands short work to
#: threads and waits for it; with Python's five milliseconds one busy thread made each hand-over wait that long.
SWITCH_INTERVAL = 0.0005


def host_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags that configure a host; they reach the command as one mapping ``flags``."""
    options = [
        click.option("--config", type=click.Path(path_type=Path), help="TOML file. [/etc/zeitwork/zeitwork.toml]"),
        click.option("--data-dir", help="Database, images, consoles. [/var/lib/zeitwork]"),
        click.option("--http", metavar="HOST:PORT", help="Control endpoint, loopback only. [127.0.0.1:8080]"),
        click.option("--socket", metavar="PATH", help="The same endpoint as a unix socket."),
        click.option("--database-url", metavar="DSN", help="A Postgres of your own instead of the embedded one."),
        click.option("--hypervisor", metavar="auto|firecracker|qemu", help="What runs VMs. [auto]"),
        click.option("--firecracker", metavar="PATH", help="Firecracker's binary. [from setup, or PATH]"),
        click.option("--jailer", metavar="auto|off|PATH", help="What confines Firecracker. [auto: where it is found]"),
        click.option("--vm-uid-base", metavar="UID", help="First of 2^24 users, one for each VM. [1900000000]"),
        click.option("--kernel", metavar="PATH", help="Guest kernel, bzImage or ELF. [from setup]"),
        click.option("--initrd", metavar="PATH", help="Guest initramfs. [from setup]"),
        click.option("--region", metavar="NAME", help="Region of this host. [default]"),
        click.option("--label", multiple=True, metavar="KEY=VALUE", help="Label of this host; may be repeated."),
        click.option("--vcpu-overcommit", metavar="RATIO", help="[4.0]"),
        click.option("--memory-overcommit", metavar="RATIO", help="[1.0]"),
        click.option("--vcpu-reserved", metavar="N", help="CPUs kept for the system. [0]"),
        click.option("--memory-reserved", metavar="SIZE", help="Memory kept for the system. [5 %, at least 512 MiB]"),
        click.option("--memory-pressure", metavar="PERCENT", help="Waiting for memory that closes this host. [20]"),
        click.option("--ipv4-pool", metavar="CIDR", help="The region's IPv4 /16, when it is new."),
        click.option("--ipv6-prefix", metavar="CIDR", help="The region's IPv6 /48, when it is new."),
        click.option("--advertise", metavar="ADDR[:PORT]", help="How other hosts reach this one; opens its links."),
        click.option("--peers", multiple=True, metavar="ADDR[:PORT]", help="Other hosts to reach the database over."),
        click.option("--log-level", metavar="debug|info|warning|error", help="[info]"),
        click.option("--log-format", metavar="auto|text|json", help="[auto: text on a terminal, else JSON]"),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def configuration(flags: dict[str, Any]) -> Config:
    """Return the configuration from the file, the environment and ``flags``."""
    file = flags.pop("config", None)
    flags["label"] = flags["label"] or None
    flags["peers"] = flags["peers"] or None
    return load(flags, os.environ, file)


@click.command()
@host_options
@click.option("--join", metavar="URL", help="Join the cluster of the host at this address.")
@click.option("--token", metavar="TOKEN", help="What lets this host in: zeitwork token create prints it.")
@click.option("--unclaimed", is_flag=True, default=None, help="Wait to be invited: zeitwork nodes add on another host.")
@click.option("--stop-vms", is_flag=True, default=None, help="Stop VMs when this process ends; otherwise they stay.")
def run(**flags: Any) -> int:
    """Run this host until SIGTERM or Ctrl-C. Needs root. VMs go on without the process.

    Exits with 2 where a setting is wrong: there is no use in trying again. Other failures are 1.

    \b
    Examples:
      zeitwork run
      zeitwork run --database-url postgresql://zeitwork@db/zeitwork
      zeitwork run --advertise 192.0.2.1
      zeitwork run --join https://192.0.2.1:7946 --token zwt1_...
      zeitwork run --advertise 192.0.2.2 --unclaimed
      zeitwork run --data-dir /srv/zeitwork --http 127.0.0.1:8081 --stop-vms
    """
    try:
        config = configuration(flags)
    except InvalidInput as wrong:
        report_problem(wrong)
        return 2
    require_root("run")
    from zeitwork import logs

    logs.configure(config.log_level, config.log_format)
    _run_trio(_import_run_host(), config)
    return 0


@click.command()
@host_options
@click.option("--once", is_flag=True, help="Print a JSON summary and take everything down again.")
@click.option("--yes", "-y", is_flag=True, help="Let setup change this machine without asking.")
def demo(once: bool, yes: bool, **flags: Any) -> int:
    """Start a host and the bundled hello app in a real VM, and print its address. Needs root.

    Everything is in a data directory of its own and is removed at the end; what setup brought stays for the next
    time (`zeitwork setup --remove` takes that away).

    \b
    Examples:
      zeitwork demo
      zeitwork demo --yes
      zeitwork demo --once | jq .seconds
    """
    flags["log_level"] = flags["log_level"] or "warning"
    config = configuration(flags)
    require_root("demo")
    from zeitwork import logs
    from zeitwork.demo import Stopwatch, Summary, demo_config, run_demo, say_where
    from zeitwork.setup.command import setup_if_needed

    logs.configure(config.log_level, config.log_format)
    summary = Summary()
    watch = Stopwatch(summary)
    status = 0
    try:
        setup_if_needed(demo_config(config), yes=yes)
        watch.lap("setup")
        progress = Progress()

        async def stay(done: Summary) -> None:
            import trio

            click.echo(say_where(done))
            await trio.sleep_forever()

        _run_trio(run_demo, demo_config(config), summary, progress, None if once else stay)
    except (Problem, BaseExceptionGroup) as error:
        problem = problem_of(error)
        summary.ok, summary.error, status = False, str(problem), 1
        report_problem(problem)
    if once:
        print_json(summary.as_json())
    elif status == 0:
        click.echo("everything is removed")
    return status


def _import_run_host() -> Callable[[Config], Any]:
    """Import the host without collecting garbage meanwhile, and keep what was imported out of later collections.

    All of it stays for as long as the process. Looking through it again and again costs a sixth of the start, and
    later pauses of fifty milliseconds.
    """
    gc.disable()
    try:
        from zeitwork.tree import run_host
    finally:
        gc.freeze()
        gc.enable()
    return run_host


def require_root(command: str) -> None:
    """Raise a `Problem` that holds the line with sudo for whoever is not root."""
    if os.geteuid() != 0:
        line = " ".join(["sudo", sys.argv[0], *sys.argv[1:]])
        raise Problem(
            f"zeitwork {command} needs root: it works on network devices and VMs", fix=line, code="needs-root"
        )


def _run_trio(function: Callable[..., Any], *args: Any) -> None:
    """Run ``function`` until it ends, or until SIGINT or SIGTERM cancels it: both are an orderly end."""
    import trio

    from runtime.links.names import Names

    sys.setswitchinterval(SWITCH_INTERVAL)

    async def main() -> None:
        trio.socket.set_custom_hostname_resolver(Names())
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:

                async def listen() -> None:
                    async for _ in signals:
                        nursery.cancel_scope.cancel()

                nursery.start_soon(listen)
                await function(*args)
                nursery.cancel_scope.cancel()

    try:
        trio.run(main, strict_exception_groups=True)
    except BaseExceptionGroup as group:
        raise problem_of(group) from group
