"""A wrong database URL is told in words that name it, before anything is changed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from actors.model.errors import Problem
from zeitwork.store import open_store
from zeitwork.store.embedded import EmbeddedServer
from zeitwork.store.problems import describe_dsn


async def _refusal(dsn: str) -> Problem:
    with trio.fail_after(60), pytest.raises(Problem) as caught:
        async with open_store(dsn):
            pytest.fail("it opened")
    assert caught.value.field == "database_url"
    assert caught.value.fix
    return caught.value


async def test_an_unreadable_url() -> None:
    problem = await _refusal("this is no url")
    assert problem.code == "invalid-database-url"


async def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        problem = await _refusal(f"postgresql://me:secret@127.0.0.1:{port}/app")
    assert problem.status == 503
    assert f"me@127.0.0.1:{port}/app" in problem.detail
    assert "secret" not in str(problem)


async def test_no_such_database(postgres_server: EmbeddedServer) -> None:
    problem = await _refusal(make_conninfo(postgres_server.dsn, dbname="absent"))
    assert 'database "absent" does not exist' in problem.detail


async def test_no_such_user(postgres_server: EmbeddedServer) -> None:
    problem = await _refusal(make_conninfo(postgres_server.dsn, user="stranger"))
    assert "stranger" in problem.detail


async def test_a_server_that_accepts_and_says_nothing() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        problem = await _refusal(f"host=127.0.0.1 port={silent.getsockname()[1]} user=me dbname=app connect_timeout=2")
    assert problem.code == "database-unreachable"


@pytest.fixture
def own(postgres_server: EmbeddedServer) -> Iterator[str]:
    """A database that is somebody's, without any of our schema, and a role that may not do anything in it."""
    name = f"t_{uuid4().hex}"
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
        connection.execute(f"create role {name}".encode())
        yield make_conninfo(postgres_server.dsn, dbname=name)
        connection.execute(f"drop database {name} with (force)".encode())
        connection.execute(f"drop role {name}".encode())


async def test_a_user_without_rights(own: str) -> None:
    problem = await _refusal(make_conninfo(own, options=f"-c role={conninfo_to_dict(own)['dbname']}"))
    assert "permission denied for schema public" in problem.detail
    assert "owner" in str(problem.fix)


@pytest.mark.parametrize("table", ["customers (id int)", "schema_migrations (version varchar)"])
async def test_a_database_of_somebody_else(own: str, table: str) -> None:
    with psycopg.connect(own, autocommit=True) as connection:
        connection.execute(f"create table {table}".encode())
    await _refusal(own)
    with psycopg.connect(own) as connection:
        found = [
            row[0]
            for row in connection.execute(
                "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
            )
        ]
    assert found == [table.split()[0]]


async def test_the_store_answers(store) -> None:
    await store.ping()


def test_a_description_keeps_secrets() -> None:
    assert describe_dsn("postgresql://me:pw@db.example:5433/app?sslmode=require") == "me@db.example:5433/app"
    assert "pw" not in describe_dsn("host=a,b password=pw dbname=x")
