"""``db``: backups of the cluster's database, and its move to a Postgres of one's own."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from actors.model.errors import Conflict, NotFound, Problem
from zeitwork.cli.output import print_json, problem_of
from zeitwork.config import Config, load

if TYPE_CHECKING:
    from zeitwork.store.archive import Content

T = TypeVar("T")
_START = "start zeitwork run on every host"


@click.group()
def db() -> None:
    """Back up the cluster's database, bring it back, or move it to a Postgres of your own. Needs root.

    VMs run on in all of these. Whoever has a backup can make hosts of this cluster: it holds the authority's key and
    all environment variables.

    \b
    Examples:
      zeitwork db backup /root/zeitwork.dump
      zeitwork db restore /root/zeitwork.dump
      zeitwork db move --to 'host=db1,db2 dbname=zeitwork user=zeitwork target_session_attrs=read-write'
    """


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option("--data-dir", help="The host's data. [/var/lib/zeitwork]"),
        click.option("--config", "file", type=click.Path(path_type=Path), help="The host's configuration file."),
    ):
        command = option(command)
    return command


@db.command()
@click.argument("target", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists, once the new one is whole.")
@_options
def backup(target: Path, overwrite: bool, as_json: bool, data_dir: str | None, file: Path | None) -> None:
    """Write the embedded database to FILE (0600), as of one moment, while hosts go on.

    The file is what pg_dump writes with --format=custom. Keep it on another machine.

    \b
    Examples:
      zeitwork db backup /root/zeitwork-$(date +%F).dump
      zeitwork db backup --overwrite /mnt/backup/zeitwork.dump
    """
    config = load({"data_dir": data_dir}, os.environ, file)
    _require_root("db backup")
    from zeitwork.store.archive import dump

    chosen = target.absolute()

    async def work() -> Content:
        async with _present(config) as dsn:
            return await dump(dsn, chosen, overwrite=overwrite)

    content = _run(work)
    size = target.stat().st_size
    _say(content, as_json, f"{target}: {size} bytes", file=str(target), bytes=size)


@db.command()
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--database-url", metavar="DSN", help="An empty database to fill. [the configured one, else embedded]")
@_options
def restore(source: Path, database_url: str | None, as_json: bool, data_dir: str | None, file: Path | None) -> None:
    """Bring a backup back: all of it or nothing. Stop `zeitwork run` on every host first; VMs run on.

    Without --database-url it becomes this host's embedded database; what was there is kept beside it. VMs that the
    backup does not know are reported by their hosts and left alone.

    \b
    Examples:
      systemctl stop zeitwork && zeitwork db restore /root/zeitwork.dump && systemctl start zeitwork
      zeitwork db restore /root/zeitwork.dump --database-url postgresql://zeitwork@db/zeitwork
    """
    config = load({"data_dir": data_dir, "database_url": database_url}, os.environ, file)
    _require_root("db restore")
    from zeitwork import ownership
    from zeitwork.store import archive
    from zeitwork.store.embedded.replacing import replace_data

    chosen = source.absolute()
    if config.database_url is not None:
        where = config.database_url
        _say(_run(lambda: archive.restore(chosen, where)), as_json, "restored", _start_all(where))
        return
    _require_own(config)
    with ownership.hold(config.data_dir), _without(config.paths.run):

        async def work() -> tuple[Content, tuple[Path, ...]]:
            await archive.describe(chosen)  # before anything is made
            directory, run = config.paths.postgres, config.paths.run / "postgres"
            return await replace_data(directory, run, lambda dsn: archive.restore(chosen, dsn))

        content, kept = _run(work)
    steps = [*(f"remove {path}, which was there before, when all is well" for path in kept), _START]
    _say(content, as_json, "restored", steps, replaced=[*map(str, kept)])


@db.command()
@click.option("--to", metavar="DSN", required=True, help="An empty database on your own Postgres, 15 or newer.")
@_options
def move(to: str, as_json: bool, data_dir: str | None, file: Path | None) -> None:
    """Move the embedded database to a Postgres of your own. Stop `zeitwork run` on every host first; VMs run on.

    Afterwards no host starts with the old one by mistake; it is kept, and nothing else reads it. All hosts have to be
    started with the new address, as --database-url or database_url in their configuration. A password is best kept in
    root's ~/.pgpass.

    \b
    Examples:
      zeitwork db move --to 'host=db1,db2 dbname=zeitwork user=zeitwork target_session_attrs=read-write'
    """
    config = load({"data_dir": data_dir}, os.environ, file)
    _require_root("db move")
    if config.database_url is not None:
        raise Conflict(
            "this host has a Postgres of its own already",
            field="database_url",
            fix="move that with its own tools: pg_dump and pg_restore, or a standby",
        )
    _require_own(config)
    _require_data(config)
    from zeitwork import ownership

    with ownership.hold(config.data_dir), _without(config.paths.run):
        content = _run(lambda: _move(config, to))
    _say(content, as_json, "moved", _start_all(to))


async def _move(config: Config, to: str) -> Content:
    from zeitwork.store.archive import dump, restore
    from zeitwork.store.embedded import EmbeddedServer
    from zeitwork.store.embedded.holding import mark_moved, unmark_moved
    from zeitwork.store.problems import check_dsn, describe_dsn

    check_dsn(to)
    directory = config.paths.postgres
    dumped = directory / "moving.dump"
    try:
        async with EmbeddedServer(directory, config.paths.run / "postgres").running() as server:
            await dump(server.dsn, dumped, overwrite=True)
        # Marked before it is there: if this is killed, no host starts with either by itself.
        mark_moved(directory, describe_dsn(to))
        try:
            return await restore(dumped, to, stale=False)
        except BaseException:
            unmark_moved(directory)
            raise
    finally:
        dumped.unlink(missing_ok=True)


@asynccontextmanager
async def _present(config: Config) -> AsyncIterator[str]:
    """Yield the DSN of the embedded database: of the running host's server, or of one that is started for this."""
    from zeitwork import ownership
    from zeitwork.store.embedded import EmbeddedServer, settings

    if config.database_url is not None:
        raise Conflict(
            "this host has a Postgres of its own",
            field="database_url",
            fix="back it up with its own tools; db restore reads what this writes: "
            "pg_dump --format=custom --no-owner --no-privileges --file=FILE DSN",
        )
    _require_own(config)
    _require_data(config)
    with ExitStack() as stack:
        stack.enter_context(_without(config.paths.run))
        try:
            stack.enter_context(ownership.hold(config.data_dir))
        except Conflict:
            # The host runs, and its server with it.
            yield settings.dsn(config.paths.run / "postgres")
            return
        async with EmbeddedServer(config.paths.postgres, config.paths.run / "postgres").running() as server:
            yield server.dsn


def _require_own(config: Config) -> None:
    """Raise a `Problem` on a host whose database is another's, or, where there is nothing at all, on a wrong path."""
    from zeitwork.cluster import MembershipFile

    known = MembershipFile(config.data_dir).load()
    if known is not None:
        where = "a Postgres of your own" if known.database is not None else f"with the host at {', '.join(known.peers)}"
        raise Conflict(
            f"this host has joined a cluster: its database is {where}",
            field="data_dir",
            fix="use that Postgres's own tools" if known.database is not None else "run this command there",
        )


def _require_data(config: Config) -> None:
    if not any(config.paths.postgres.glob("data-*")):
        raise NotFound(f"there is no database in {config.paths.postgres}", field="data_dir", fix="give --data-dir")


def _start_all(dsn: str) -> list[str]:
    from zeitwork.store.problems import describe_dsn

    where = describe_dsn(dsn)
    return [f"set database_url to it ({where}) in /etc/zeitwork/zeitwork.toml (chmod 600) on every host", _START]


def _say(content: Content, as_json: bool, done: str, steps: Sequence[str] = (), **more: Any) -> None:
    if as_json:
        print_json({**asdict(content), **more, "next": [*steps]})
        return
    click.echo(f"{done}, cluster {content.cluster} as of {content.taken}, schema {content.schema}")
    for step in steps:
        click.echo(f"next: {step}")


@contextmanager
def _without(run: Path) -> Iterator[None]:
    """Remove the directories for sockets at the end, as far as nothing is in them."""
    try:
        yield
    finally:
        for directory in (run / "postgres", run):
            with suppress(OSError):
                directory.rmdir()


def _run(work: Callable[[], Awaitable[T]]) -> T:
    """Run ``work``, and undo it when this is told to end. Raises `click.Abort` then, or a `Problem`."""
    import trio

    results: list[T] = []

    async def main() -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:

                async def listen() -> None:
                    async for _ in signals:
                        nursery.cancel_scope.cancel()

                nursery.start_soon(listen)
                results.append(await work())
                nursery.cancel_scope.cancel()

    _quiet()
    try:
        trio.run(main, strict_exception_groups=True)
    except BaseExceptionGroup as group:
        raise problem_of(group) from group
    if not results:
        raise click.Abort
    return results[0]


def _quiet() -> None:
    """Say on standard error only what goes wrong: the server's own notes are for a host's log."""
    from zeitwork import logs

    logs.configure("warning", "text")


def _require_root(command: str) -> None:
    if os.geteuid() != 0:
        raise Problem(f"zeitwork {command} needs root: the database is root's", fix="use sudo", code="needs-root")
