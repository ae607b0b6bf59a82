"""Real Postgres for every test that asks for it: one embedded server for the session, a database for each test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import structlog
import trio
from hypothesis import HealthCheck, settings
from psycopg.conninfo import make_conninfo

from zeitwork.store import Store, open_store
from zeitwork.store.embedded import EmbeddedServer
from zeitwork.store.system_user import create_user

TEMPLATE = "zeitwork_template"

#: Seconds for a test of these folders: they boot guests, and a busy machine takes several times as long as an idle one.
#: What they wait for has deadlines of its own; one that passes ends a test, and this one all of them.
LONGEST = {"e2e": 900, "guest": 900, "host": 900, "bench": 900}

# A slow machine is no failure: how long an example takes says nothing about whether the code is right. Who runs the
# tests at a desk tries examples that nobody has tried; CI tries those that go with the test, so that it says whether a
# change broke something, not whether somebody was lucky.
SLOW = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("zeitwork", **SLOW)
settings.register_profile("zeitwork-ci", derandomize=True, print_blob=True, **SLOW)
settings.load_profile("zeitwork-ci" if os.environ.get("CI") else "zeitwork")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests that boot guests the time that they may take."""
    for item in items:
        if (seconds := LONGEST.get(item.path.parent.name)) is not None:
            item.add_marker(pytest.mark.timeout(seconds))


@pytest.fixture(autouse=True)
def logs_stay_as_they_were() -> Iterator[None]:
    """Say which test leaves logs configured as a process does: later ones would write to a stream that is closed."""
    yield
    assert not structlog.get_config()["cache_logger_on_first_use"], "this test has configured logs and left them so"


@pytest.fixture(scope="session")
def public_directory() -> Iterator[Path]:
    """A directory for the session that other users may enter (pytest's own are closed), with a short path.

    In memory where there is room: databases are copied by the hundred.
    """
    shared = Path("/dev/shm")
    roomy = shared.is_dir() and shutil.disk_usage(shared).free > 1 << 30
    path = Path(tempfile.mkdtemp(prefix="zwt-", dir=shared if roomy else None))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(public_directory: Path) -> Iterator[EmbeddedServer]:
    """An embedded server. It does not wait for the disk: nothing in the tests cuts the power."""
    if os.geteuid() != 0:
        pytest.skip("the embedded Postgres needs root to become its system user")
    create_user()
    relaxed = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "100"}
    server = EmbeddedServer(public_directory / "pg", public_directory / "run-pg", overrides=relaxed)
    trio.run(server.start)
    try:
        trio.run(_make_template, server.dsn)
        yield server
    finally:
        trio.run(server.stop)


@pytest.fixture
def database_url(postgres_server: EmbeddedServer) -> Iterator[str]:
    """A database of the test's own, with the schema in it."""
    name = f"t_{uuid4().hex}"
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(f"create database {name} template {TEMPLATE} strategy file_copy".encode())
        yield make_conninfo(postgres_server.dsn, dbname=name)
        connection.execute(f"drop database {name} with (force)".encode())


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """A store on a database of the test's own, following notifications; what it would sweep away by itself stays."""
    async with open_store(database_url) as opened, trio.open_nursery() as nursery:
        nursery.start_soon(opened.notifications.run)
        yield opened
        nursery.cancel_scope.cancel()


async def _make_template(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"create database {TEMPLATE}".encode())
    async with open_store(make_conninfo(dsn, dbname=TEMPLATE)):
        pass
    with psycopg.connect(make_conninfo(dsn, dbname=TEMPLATE), autocommit=True) as connection:
        # Each copy gets an identity of its own when it is opened.
        connection.execute("delete from cluster")
