"""A wrong database URL is told in words that name it, before anything is changed."""

from __future__ import annotations

import socket

import pytest
import trio
from psycopg.conninfo import make_conninfo

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


async def test_the_store_answers(store) -> None:
    await store.ping()


def test_a_description_keeps_secrets() -> None:
    assert describe_dsn("postgresql://me:pw@db.example:5433/app?sslmode=require") == "me@db.example:5433/app"
    assert "pw" not in describe_dsn("host=a,b password=pw dbname=x")
