"""One answer for each Idempotency-Key."""

from __future__ import annotations

import psycopg
import pytest
import trio

from actors.model.errors import Conflict, InvalidInput
from zeitwork.store import Store
from zeitwork.store import idempotency as module


async def test_the_first_answer_is_repeated(store: Store) -> None:
    begun = await store.idempotency.begin("key", b"request")
    assert begun.fresh
    await store.idempotency.finish("key", 201, b'{"id": 1}')
    again = await store.idempotency.begin("key", b"request")
    assert (again.fresh, again.status, again.body, again.token) == (False, 201, b'{"id": 1}', begun.token)


async def test_another_request_is_refused(store: Store) -> None:
    await store.idempotency.begin("key", b"request")
    with pytest.raises(Conflict) as caught:
        await store.idempotency.begin("key", b"another")
    assert caught.value.code == "idempotency-key-reused"


async def test_a_request_in_progress_is_not_done_twice(store: Store) -> None:
    fresh: list[bool] = []
    refused: list[str] = []

    async def one() -> None:
        try:
            fresh.append((await store.idempotency.begin("key", b"request")).fresh)
        except Conflict as problem:
            refused.append(problem.code)

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(one)
    assert fresh == [True]
    assert refused == ["request-in-progress"] * 5


async def test_a_request_that_was_given_back_keeps_its_token(store: Store) -> None:
    first = await store.idempotency.begin("key", b"request")
    await store.idempotency.abandon("key")
    second = await store.idempotency.begin("key", b"request")
    assert second.fresh
    assert second.token == first.token


async def test_a_request_that_died_is_taken_over(store: Store, database_url: str) -> None:
    first = await store.idempotency.begin("key", b"request")
    with psycopg.connect(database_url) as connection:
        connection.execute("update idempotency_keys set begun_at = now() - interval '2 minutes'")
    second = await store.idempotency.begin("key", b"request")
    assert (second.fresh, second.token) == (True, first.token)


async def test_answers_expire(store: Store, database_url: str) -> None:
    await store.idempotency.begin("key", b"request")
    await store.idempotency.finish("key", 200, b"")
    with psycopg.connect(database_url) as connection:
        connection.execute("update idempotency_keys set expires_at = now()")
    assert (await store.idempotency.begin("key", b"another")).fresh


async def test_the_table_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEYS", 5)
    for number in range(12):
        await store.idempotency.begin(f"key-{number}", b"")
    assert await store.idempotency.prune() == 7
    assert await store.idempotency.prune() == 0
    with pytest.raises(Conflict):
        await store.idempotency.begin("key-11", b"")


async def test_a_huge_answer_is_not_kept(store: Store) -> None:
    await store.idempotency.begin("key", b"")
    await store.idempotency.finish("key", 200, bytes(module.MAX_BODY + 1))
    assert (await store.idempotency.begin("key", b"")).fresh


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_a_strange_key_is_refused(store: Store, key: str) -> None:
    with pytest.raises(InvalidInput):
        await store.idempotency.begin(key, b"")
