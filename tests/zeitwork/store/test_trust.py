"""Tokens and the authority on real Postgres."""

from __future__ import annotations

import os
from datetime import timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
import trio

from actors.model.errors import Conflict, InvalidInput, NotFound
from zeitwork.store import Store
from zeitwork.store import trust as module
from zeitwork.store.trust import Signed, Trust, WrongToken
from zeitwork.trust import certificates
from zeitwork.trust.token import Token, new_token

HOUR = timedelta(hours=1)


@pytest.fixture
def trust(store: Store) -> Trust:
    return Trust(store.units)


async def token_of(trust: Trust, life: timedelta = HOUR) -> Token:
    token = new_token(certificates.fingerprint(await trust.authority()), os.urandom)
    await trust.add_token(token, life=life, who="test")
    return token


async def redeem(trust: Trust, token: Token, host: UUID | None = None, request: bytes | None = None) -> Signed:
    asked = certificates.request(certificates.new_key()) if request is None else request
    return await trust.redeem(
        token.id, token.secret_hash, host=host or uuid4(), request=asked, remote="192.0.2.7:40000"
    )


async def test_there_is_one_authority_whoever_asks_first(trust: Trust, store: Store) -> None:
    seen: list[str] = []

    async def ask() -> None:
        seen.append(await trust.authority())

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(ask)
    assert len(set(seen)) == 1
    identity = await store.cluster.identity()
    signed = await trust.sign(uuid4(), certificates.request(certificates.new_key()))
    assert (signed.authority, signed.cluster) == (seen[0], identity.id)


async def test_a_token_lets_one_host_in_once(trust: Trust) -> None:
    token, key, host = await token_of(trust), certificates.new_key(), uuid4()
    signed = await redeem(trust, token, host, certificates.request(key))
    assert certificates.belongs(signed.certificate, key)
    for other_host, other_key in ((uuid4(), key), (host, certificates.new_key())):
        with pytest.raises(WrongToken, match="used already"):
            await redeem(trust, token, other_host, certificates.request(other_key))
    # The answer may have been lost: the same host with the same key is let in again.
    assert certificates.belongs((await redeem(trust, token, host, certificates.request(key))).certificate, key)
    (row,) = await trust.tokens()
    assert (row.state, row.used_by, row.created_by) == ("used", host, "test")


async def test_of_many_at_once_one_gets_in(trust: Trust) -> None:
    token = await token_of(trust)
    let_in: list[Signed] = []
    refused: list[WrongToken] = []

    async def knock() -> None:
        try:
            let_in.append(await redeem(trust, token))
        except WrongToken as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(knock)
    assert (len(let_in), len(refused)) == (1, 9)


async def test_wrong_tokens_open_nothing(trust: Trust, database_url: str) -> None:
    token = await token_of(trust)
    forged = Token(token.id, bytes(24), token.fingerprint)
    unknown = new_token(token.fingerprint, os.urandom)
    for wrong in (forged, unknown, Token(token.id, unknown.secret, token.fingerprint)):
        with pytest.raises(WrongToken, match="not valid here") as caught:
            await redeem(trust, wrong)
        assert caught.value.field == "token"
        assert caught.value.fix
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("update join_tokens set created_at = now() - interval '2 h', expires_at = now()")
    with pytest.raises(WrongToken, match="expired"):
        await redeem(trust, token)
    with pytest.raises(WrongToken, match="not valid here"):
        await redeem(trust, forged)
    (row,) = await trust.tokens()
    assert (row.state, row.used_at) == ("expired", None)


async def test_a_request_that_can_not_be_signed_uses_no_token_up(trust: Trust) -> None:
    token = await token_of(trust)
    good = certificates.request(certificates.new_key())
    for bad in (b"", b"\x30\x00", good[:-5] + b"\x00" * 5, good + b"\x00" * 5000):
        with pytest.raises(InvalidInput):
            await redeem(trust, token, request=bad)
    assert await redeem(trust, token)


async def test_a_revoked_token_is_worth_nothing(trust: Trust) -> None:
    token = await token_of(trust)
    assert (await trust.revoke(token.id, who="test")).state == "revoked"
    assert (await trust.revoke(token.id, who="test")).state == "revoked"
    with pytest.raises(WrongToken, match="revoked"):
        await redeem(trust, token)
    with pytest.raises(NotFound):
        await trust.revoke(UUID(int=1), who="test")


async def test_tokens_are_bounded_in_life_and_number(trust: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    for life in (timedelta(seconds=5), timedelta(days=30), timedelta(0)):
        with pytest.raises(InvalidInput):
            await token_of(trust, life)
    monkeypatch.setattr(module, "MOST_TOKENS", 2)
    await token_of(trust)
    await token_of(trust)
    with pytest.raises(Conflict):
        await token_of(trust)


async def test_the_database_keeps_no_secret_of_a_token(trust: Trust, database_url: str) -> None:
    token = await token_of(trust)
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("select join_tokens::text from join_tokens").fetchall()
        events = connection.execute("select events::text from events where what like 'token%'").fetchall()
    assert token.secret.hex() not in str(rows) + str(events)
    assert str(token) not in str(rows) + str(events)
    assert token.secret.hex() not in repr(token)


async def test_what_happens_to_tokens_is_in_the_journal(trust: Trust, database_url: str) -> None:
    token, host = await token_of(trust), uuid4()
    await redeem(trust, token, host)
    other = await token_of(trust)
    await trust.revoke(other.id, who="someone")
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("select what, data from events where what like 'token%' order by id").fetchall()
    assert [what for what, _ in rows] == ["token.created", "token.used", "token.created", "token.revoked"]
    assert rows[1][1] == {"token": str(token.id), "host": str(host), "remote": "192.0.2.7:40000"}
