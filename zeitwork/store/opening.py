"""Opening a store: connect, check the server, bring the schema up to date."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import trio

from actors.model.errors import Failed
from zeitwork.store.cluster import ensure_cluster
from zeitwork.store.connections import CONNECT_TIMEOUT
from zeitwork.store.election import IDLE_TIMEOUT as ELECTION_IDLE
from zeitwork.store.election import STATEMENT_TIMEOUT as ELECTION_TIMEOUT
from zeitwork.store.leases import REST
from zeitwork.store.metrics import StoreMetrics
from zeitwork.store.migrate import migrate
from zeitwork.store.notifications import Notifications
from zeitwork.store.problems import check_dsn, describe_dsn, first_line, refused_at_start
from zeitwork.store.store import Store
from zeitwork.store.units import POOL_SIZE, STATEMENT_TIMEOUT, Units

#: The oldest server that the schema works on.
MINIMUM_SERVER = 14


@asynccontextmanager
async def open_store(
    dsn: str,
    *,
    size: int = POOL_SIZE,
    statement_timeout: float = STATEMENT_TIMEOUT,
    rest: float = REST,
    application_name: str = "zeitwork",
) -> AsyncIterator[Store]:
    """Connect and bring the schema up to date; close the connections at the end.

    Start `Store.run` in a nursery for notifications. Raises a `Problem` that names ``database_url`` when the DSN is
    wrong, nothing usable answers there within a few seconds, or the schema is not one this code knows.
    """
    check_dsn(dsn)
    await trio.to_thread.run_sync(probe, dsn, application_name)
    metrics = StoreMetrics()
    units = Units(
        dsn,
        size=size,
        statement_timeout=statement_timeout,
        application_name=application_name,
        metrics=metrics,
    )
    reserved = Units(
        dsn,
        size=1,
        statement_timeout=ELECTION_TIMEOUT,
        idle_timeout=ELECTION_IDLE,
        application_name=f"{application_name} election",
        metrics=metrics,
    )
    try:
        try:
            await migrate(units)
        except psycopg.Error as error:
            raise Failed(
                f"the database at {describe_dsn(dsn)} can't be used: {first_line(error)}",
                field="database_url",
                code="database-unusable",
                fix="its user needs a database of its own: create database zeitwork owner USER",
            ) from error
        await units.run(ensure_cluster, name="cluster.ensure")
        yield Store(
            units,
            Notifications(dsn, application_name=f"{application_name} listen", metrics=metrics, connected=units.heard),
            reserved=reserved,
            rest=rest,
        )
    finally:
        reserved.close()
        units.close()


def probe(dsn: str, application_name: str) -> None:
    """Connect once, so that what is wrong at the start is told in the words of a start. Blocks; raises a `Problem`."""
    try:
        with psycopg.connect(dsn, connect_timeout=CONNECT_TIMEOUT, application_name=application_name) as connection:
            version = connection.info.server_version
            row = connection.execute("select pg_is_in_recovery()").fetchone()
    except psycopg.Error as error:
        raise refused_at_start(error, dsn) from error
    if version < MINIMUM_SERVER * 10000:
        raise Failed(
            f"the database server is PostgreSQL {version // 10000}, Zeitwork needs {MINIMUM_SERVER} or newer",
            field="database_url",
            code="database-too-old",
        )
    if row is not None and row[0]:
        raise Failed(
            "the database server is a standby and cannot be written to",
            field="database_url",
            code="database-read-only",
            fix="give the primary server, or all of them with target_session_attrs=read-write",
        )
