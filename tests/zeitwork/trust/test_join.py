"""The join over real TLS, from the token to the first link."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
import structlog
import trio

from actors.model.errors import Failed, InvalidInput, Problem, Unavailable
from runtime.links.messages import Introduce
from tests.runtime.links.hosts import SOON, Host, ended, host
from tests.runtime.links.messages import Double
from tests.zeitwork.trust.secured import Signer, issue, secured
from zeitwork.store import Store
from zeitwork.store.trust import Trust, WrongToken
from zeitwork.trust import certificates
from zeitwork.trust.attempts import Attempts
from zeitwork.trust.bootstrap import ensure_credentials
from zeitwork.trust.files import TrustFiles
from zeitwork.trust.join import JoinDoors, join
from zeitwork.trust.token import Token, new_token, parse_token

NEW = UUID(int=50)
DSN = "postgresql://zeitwork@db/zeitwork"


@asynccontextmanager
async def a_cluster(
    tmp_path: Path, signer: Signer, *, database: str | None = None, attempts: Attempts | None = None
) -> AsyncIterator[Host]:
    """One host that lets others in."""
    # By a clock that stands: no attempt comes back however long the others take.
    doors = JoinDoors(signer, UUID(int=1), database, lambda: 0.0, attempts).doors()
    async with secured(1, issue(tmp_path, 1, signer), doors=doors) as one:
        yield one


def token_for(signer: Signer) -> Token:
    token = new_token(certificates.fingerprint(signer.made.certificate), os.urandom)
    signer.tokens.append(token)
    return token


def url(of: Host) -> str:
    return f"https://{of.address}"


@pytest.mark.parametrize("database", [None, DSN])
async def test_a_new_host_joins_and_links(tmp_path: Path, database: str | None) -> None:
    signer, key = Signer(), certificates.new_key()
    async with a_cluster(tmp_path, signer, database=database) as one:
        token = token_for(signer)
        welcome, credentials = await join(url(one), str(token), host=NEW, hostname="h50", key=key)
        assert (welcome.cluster, welcome.database, welcome.peer) == (signer.cluster, database, one.id)
        files = TrustFiles(tmp_path / "new")
        files.save(credentials)
        async with secured(NEW.int, files) as new:
            assert await new.links.ask(Introduce(one.address), timeout=SOON) == one.id
            assert await new.ref(one.id).ask(Double(5), timeout=SOON) == 10
        with pytest.raises(Problem) as caught:
            await join(url(one), str(token), host=UUID(int=51), hostname="h51", key=certificates.new_key())
        assert (caught.value.code, caught.value.field) == ("wrong-token", "token")


async def test_the_secret_is_said_to_the_right_cluster_only(tmp_path: Path) -> None:
    """A host of another cluster at the address learns nothing of the token, whatever it shows."""
    right, wrong = Signer(), Signer()
    token = token_for(right)
    wrong.tokens.append(token)
    async with a_cluster(tmp_path, wrong) as impostor:
        with pytest.raises(Failed, match="does not belong to the cluster") as caught:
            await join(url(impostor), str(token), host=NEW, hostname="h", key=certificates.new_key())
        assert caught.value.code == "wrong-cluster"
    # One that shows the right authority's certificate, which is no secret, has no certificate of it.
    wrong.authority = right.authority  # type: ignore[method-assign]
    async with a_cluster(tmp_path, wrong) as impostor:
        with pytest.raises(Failed, match="TLS"):
            await join(url(impostor), str(token), host=NEW, hostname="h", key=certificates.new_key())
    assert wrong.tokens == [token]


async def test_wrong_tokens_and_addresses_are_told_apart(tmp_path: Path) -> None:
    signer, key = Signer(), certificates.new_key()
    async with a_cluster(tmp_path, signer) as one, host(2) as plain:
        token = str(token_for(signer))
        with pytest.raises(InvalidInput, match="incomplete"):
            await join(url(one), token[:-3], host=NEW, hostname="h", key=key)
        forged = parse_token(token)
        forged = Token(forged.id, bytes(24), forged.fingerprint)
        with pytest.raises(Problem, match="not valid here"):
            await join(url(one), str(forged), host=NEW, hostname="h", key=key)
        with pytest.raises(InvalidInput, match="not an address"):
            await join(f"http://{one.address}", token, host=NEW, hostname="h", key=key)
        with pytest.raises(Problem, match="has the id of a host"):
            await join(url(one), token, host=one.id, hostname="h", key=key)
        with pytest.raises(Problem, match="TLS|closed") as caught:
            await join(url(plain), token, host=NEW, hostname="h", key=key)
        assert caught.value.field == "join"
    with pytest.raises(Unavailable, match="reached"):
        await join(url(one), token, host=NEW, hostname="h", key=key)


async def test_a_database_that_is_known_by_its_own_machine_only_is_of_no_use_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer, key = Signer(), certificates.new_key()
    local = "postgresql://u:secret@localhost/zeitwork"
    async with a_cluster(tmp_path, signer, database=local) as one:
        token = str(token_for(signer))
        monkeypatch.setattr("zeitwork.trust.reach.on_this_machine", lambda _: False)
        with pytest.raises(Problem, match="known by localhost") as caught:
            await join(url(one), token, host=NEW, hostname="h", key=key)
        assert (caught.value.code, caught.value.field) == ("local-database", "database_url")
        assert "secret" not in str(caught.value)
        # Its token is as good as before, for a host that knows the database by a DSN of its own.
        assert len(signer.tokens) == 1
        welcome, _ = await join(url(one), token, host=NEW, hostname="h", key=key, database=True)
        assert welcome.database == local
        # Another host of the same machine means the same by it.
        monkeypatch.undo()
        await join(url(one), str(token_for(signer)), host=NEW, hostname="h", key=key)


async def test_attempts_are_limited(tmp_path: Path) -> None:
    signer = Signer()
    async with a_cluster(tmp_path, signer, attempts=Attempts(each=3)) as one:
        wrong = str(new_token(certificates.fingerprint(signer.made.certificate), os.urandom))
        codes = []
        for _ in range(5):
            with pytest.raises(Problem) as caught:
                await join(url(one), wrong, host=NEW, hostname="h", key=certificates.new_key())
            codes.append(caught.value.code)
        assert codes == ["wrong-token"] * 3 + ["too-many-attempts"] * 2
        assert caught.value.status == 429


async def test_who_is_not_let_in_is_in_the_log_without_the_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer = Signer()
    wrong = new_token(certificates.fingerprint(signer.made.certificate), os.urandom)
    # One that was bound when the module was imported may know of another configuration than that which is captured.
    monkeypatch.setattr("zeitwork.trust.join._log", structlog.get_logger())
    with structlog.testing.capture_logs() as log:
        async with a_cluster(tmp_path, signer) as one:
            with pytest.raises(Problem):
                await join(url(one), str(wrong), host=NEW, hostname="h", key=certificates.new_key())
    (entry,) = [entry for entry in log if entry["event"] == "host not let in"]
    assert entry["code"] == "wrong-token"
    assert wrong.secret.hex() not in str(log)
    assert str(wrong) not in str(log)


async def test_a_listener_that_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeitwork.trust.join.DEADLINE", 0.3)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    token = new_token(bytes(32), os.urandom)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, ended, [listener])
        with pytest.raises(Unavailable, match="did not answer"):
            await join(f"https://127.0.0.1:{port}", str(token), host=NEW, hostname="h", key=certificates.new_key())
        nursery.cancel_scope.cancel()


async def test_the_whole_of_it_on_real_postgres(tmp_path: Path, store: Store) -> None:
    """The first host makes the authority and its own certificate, a token, and lets a second one in."""
    trust, first = Trust(store.units), UUID(int=1)
    cluster = (await store.cluster.identity()).id
    authority = await trust.authority()
    files = TrustFiles(tmp_path / "one")
    await ensure_credentials(files, first, trust.sign, authority=authority, now=certificates.now().timestamp())
    token = new_token(certificates.fingerprint(authority), os.urandom)
    await trust.add_token(token, life=timedelta(minutes=10), who="test")
    doors = JoinDoors(trust, first, None, trio.current_time).doors()

    def of(number: int, files: TrustFiles, **more):  # type: ignore[no-untyped-def]
        from runtime.links.transport import TlsTransport

        transport = TlsTransport("127.0.0.1", 0, files.contexts, lambda shown: certificates.prove(shown, cluster))
        return host(number, transport=transport, cluster=cluster, **more)

    async with of(1, files, doors=doors) as one:
        key = certificates.new_key()
        welcome, credentials = await join(url(one), str(token), host=NEW, hostname="h50", key=key)
        assert (welcome.cluster, welcome.database) == (cluster, None)
        # The answer was lost: once more.
        await join(url(one), str(token), host=NEW, hostname="h50", key=key)
        with pytest.raises(Problem, match="used already"):
            await join(url(one), str(token), host=UUID(int=51), hostname="h51", key=certificates.new_key())
        theirs = TrustFiles(tmp_path / "new")
        theirs.save(credentials)
        async with of(NEW.int, theirs) as new:
            assert await new.links.ask(Introduce(one.address), timeout=SOON) == one.id
            assert await one.ref(new.id).ask(Double(21), timeout=SOON) == 42
    assert WrongToken.status == 403
