"""Invitations: codes that people carry, and unclaimed hosts over real TLS."""

from __future__ import annotations

import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from actors.model.errors import Failed, InvalidInput, Problem, Unavailable
from actors.model.states import NodeState
from actors.registrar.invite import Invited, Outcome
from runtime import RealEnvironment
from runtime.lease import Fenced, Term
from runtime.links.transport import Address
from tests.runtime.links.hosts import SOON, until
from tests.zeitwork.trust.secured import Signer, issue
from zeitwork.trust import certificates, exchange, invitation, unclaimed
from zeitwork.trust.exchange import JoinRequest, decode_request, encode_request
from zeitwork.trust.files import TrustFiles
from zeitwork.trust.invitation import Code, Greeting, Invitation, new_code, parse_code
from zeitwork.trust.inviting import Inviting
from zeitwork.trust.join import connection
from zeitwork.trust.token import Token, new_token, parse_token
from zeitwork.trust.unclaimed import MOST_WRONG, Unclaimed, self_signed

NODE, HOST = UUID(int=77), UUID(int=78)
ENV = RealEnvironment()
TERM = Term(1, UUID(int=1), 10.0)


# ---- codes


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32))
def test_a_code_is_read_as_it_was_printed(secret: bytes, fingerprint: bytes) -> None:
    code = new_code(fingerprint, lambda _: secret)
    assert parse_code(f" {code}\n") == code
    assert code.names(fingerprint)
    assert not code.names(bytes(32 - 1) + b"\x01") or fingerprint[:16] == bytes(16)
    assert str(code) not in repr(code)


@given(st.text(max_size=80) | st.text("zwi1_AB-", max_size=60).map(lambda text: "zwi1_" + text))
def test_what_is_no_code_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_code(text)
    assert caught.value.field == "code"
    assert caught.value.fix


@given(st.integers(0, 47), st.sampled_from("ABCDEFGH0123_-"))
def test_a_code_with_one_wrong_letter_is_noticed(at: int, letter: str) -> None:
    text = str(Code(bytes(range(16)), bytes(16)))
    wrong = text[: 5 + at] + letter + text[6 + at :]
    if wrong != text:
        with pytest.raises(InvalidInput, match="incomplete or was changed"):
            parse_code(wrong)


# ---- what is said


@given(st.binary(max_size=300))
def test_garbage_is_refused(message: bytes) -> None:
    for decode in (invitation.decode_greeting, invitation.decode_invitation, invitation.decode_joined):
        with pytest.raises(Problem):
            decode(message)


def test_messages_are_read_as_they_were_written() -> None:
    greeting = Greeting("cluster", "h2", bytes(32))
    assert invitation.decode_greeting(invitation.encode_greeting(greeting)) == greeting
    offered = Invitation("https://192.0.2.1:7946", NODE, "c", "a", b"s", b"secret", "t")
    assert invitation.decode_invitation(invitation.encode_invitation(offered)) == offered
    assert invitation.decode_joined(invitation.encode_joined(HOST)) == HOST
    refusal = exchange.encode_problem(Problem("no", field="code", code="wrong-code", fix="x"))
    with pytest.raises(Problem) as caught:
        invitation.decode_joined(refusal)
    assert (caught.value.code, caught.value.detail) == ("wrong-code", "no")
    for node in (None, NODE):
        asked = JoinRequest(NODE, b"s", HOST, "h2", b"r", node=node, database=node is not None)
        assert decode_request(encode_request(asked)) == asked


@pytest.mark.parametrize("change", ["authority", "join", "node", "signature", "certificate", "nonce", "shown", "late"])
def test_only_the_cluster_of_the_token_invites(tmp_path: Path, change: str) -> None:
    signer, other = Signer(), Signer()
    credentials = issue(tmp_path, 1, signer).load()
    foreign = issue(tmp_path, 2, other).load()
    assert credentials is not None
    assert foreign is not None
    authority, nonce, shown, now = certificates.fingerprint(credentials.authority), bytes(32), bytes(32), ENV.now()
    greeting = Greeting("cluster", "h2", nonce)
    offered = invitation.invite(credentials, greeting, shown, join="https://h:1", node=NODE, code=None)
    invitation.check_cluster(offered, authority, nonce, shown, now)
    match change:
        case "authority":
            offered = invitation.invite(foreign, greeting, shown, join="https://h:1", node=NODE, code=None)
        case "join":
            offered = replace(offered, join="https://elsewhere:1")
        case "node":
            offered = replace(offered, node=HOST)
        case "signature":
            offered = replace(offered, signature=b"x")
        case "certificate":
            offered = replace(offered, certificate=foreign.certificate)
        case "nonce":
            nonce = bytes(31) + b"x"
        case "shown":
            shown = bytes(31) + b"x"
        case _:
            now += 8 * 24 * 3600
    with pytest.raises(Problem) as caught:
        invitation.check_cluster(offered, authority, nonce, shown, now)
    assert caught.value.code == "wrong-cluster"


# ---- over TLS


@dataclass
class Waiting:
    """An unclaimed host, what it printed, and how its joins shall end."""

    address: Address
    codes: list[Code] = field(default_factory=list)
    joined: list[tuple[str, str, UUID]] = field(default_factory=list)
    refusal: Problem | None = None
    ended: trio.Event = field(default_factory=trio.Event)

    def invited(self, code: Code | None) -> Invited:
        return Invited(
            NODE, 1.0, "h2", str(self.address), None if code is None else str(code), NodeState.BOOTING, 0, 60.0, 60.0,
            0, False, "",
        )  # fmt: skip


@asynccontextmanager
async def waiting(tmp_path: Path, token: Token | None = None) -> AsyncIterator[Waiting]:
    made = Waiting(Address("127.0.0.1", 1))

    async def join(url: str, brought: str, node: UUID) -> None:
        await trio.lowlevel.checkpoint()
        if made.refusal is not None:
            raise made.refusal
        made.joined.append((url, brought, node))

    host = Unclaimed(("127.0.0.1", 0), "h2", HOST, ENV, token=token, say=made.codes.append, join=join)

    async def run(task_status: trio.TaskStatus[Address]) -> None:
        await host.run(tmp_path / "trust", task_status=task_status)
        made.ended.set()

    async with trio.open_nursery() as nursery:
        made.address = await nursery.start(run)
        assert list((tmp_path / "trust").iterdir()) == []
        await trio.testing.wait_all_tasks_blocked(0.01)
        yield made
        nursery.cancel_scope.cancel()


@dataclass
class Cluster:
    """A host of a cluster that invites; ``minted`` are the tokens that it entered."""

    files: TrustFiles
    minted: list[Token] = field(default_factory=list)
    broken: Exception | None = None

    async def invite(self, one: Invited) -> Outcome:
        with trio.fail_after(SOON):
            return await Inviting(self.files, Address("192.0.2.1", 7946), self.mint, os.urandom).invite(one, TERM)

    async def mint(self, node: UUID, token: Token, life: timedelta, term: Term) -> None:
        assert node == NODE
        await trio.lowlevel.checkpoint()
        if self.broken is not None:
            raise self.broken
        self.minted.append(token)


@pytest.fixture
def signer() -> Signer:
    return Signer()


@pytest.fixture
def cluster(tmp_path: Path, signer: Signer) -> Cluster:
    return Cluster(issue(tmp_path, 1, signer))


async def test_the_code_that_was_printed_lets_the_cluster_invite(
    tmp_path: Path, cluster: Cluster, signer: Signer
) -> None:
    async with waiting(tmp_path) as host:
        (code,) = host.codes
        assert await cluster.invite(host.invited(code)) == Outcome(True, "")
        (token,) = cluster.minted
        assert host.joined == [("https://192.0.2.1:7946", str(token), NODE)]
        assert parse_token(host.joined[0][1]).fingerprint == certificates.fingerprint(signer.made.certificate)
        with trio.fail_after(SOON):
            await host.ended.wait()
        # It listens no more.
        assert "can't be reached: connection refused" in (await cluster.invite(host.invited(code))).reason


async def test_whoever_has_no_code_is_refused_and_told_nothing(tmp_path: Path, cluster: Cluster) -> None:
    async with waiting(tmp_path) as host:
        (code,) = host.codes
        outcome = await cluster.invite(host.invited(None))
        assert (outcome.accepted, outcome.final) == (False, True)
        assert "only with the code" in outcome.reason
        # The code of another host: that one is not spoken to at all.
        outcome = await cluster.invite(host.invited(new_code(bytes(32), os.urandom)))
        assert not outcome.final
        assert "not the one that printed the code" in outcome.reason
        assert cluster.minted == []
        outcome = await cluster.invite(host.invited(Code(bytes(16), code.fingerprint)))
        assert outcome.final
        assert "not the one that the host shows now" in outcome.reason
        assert host.joined == []
        assert (await cluster.invite(host.invited(code))).accepted


async def test_wrong_codes_lock_the_right_one(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unclaimed, "LOCKED", 1.0)
    async with waiting(tmp_path) as host:
        (code,) = host.codes
        for _ in range(MOST_WRONG):
            await cluster.invite(host.invited(Code(bytes(16), code.fingerprint)))
        outcome = await cluster.invite(host.invited(code))
        assert not outcome.accepted
        await until(lambda: len(host.codes) == 2)
        assert not (await cluster.invite(host.invited(code))).accepted
        assert (await cluster.invite(host.invited(host.codes[1]))).accepted


async def test_a_join_that_fails_is_told_and_can_be_tried_again(tmp_path: Path, cluster: Cluster) -> None:
    async with waiting(tmp_path) as host:
        (code,) = host.codes
        host.refusal = Failed("192.0.2.1:7946 can't be reached")
        assert await cluster.invite(host.invited(code)) == Outcome(False, "192.0.2.1:7946 can't be reached")
        host.refusal = None
        assert (await cluster.invite(host.invited(code))).accepted
        first, second = cluster.minted
        assert first.secret != second.secret


async def test_a_leader_that_is_none_any_more_is_told_so(tmp_path: Path, cluster: Cluster) -> None:
    async with waiting(tmp_path) as host:
        (code,) = host.codes
        cluster.broken = Fenced(TERM, "epoch 2 has begun")
        with pytest.raises(Fenced):
            await cluster.invite(host.invited(code))
        cluster.broken = Unavailable("the database is away")
        assert await cluster.invite(host.invited(code)) == Outcome(False, "the database is away")
        cluster.broken = ValueError("strange")
        outcome = await cluster.invite(host.invited(code))
        assert (outcome.accepted, outcome.final) == (False, False)
        cluster.broken = None
        assert (await cluster.invite(host.invited(code))).accepted


async def test_a_host_with_a_token_accepts_its_cluster_only(tmp_path: Path, cluster: Cluster, signer: Signer) -> None:
    token = new_token(certificates.fingerprint(signer.made.certificate), os.urandom)
    (tmp_path / "other").mkdir()
    stranger = Cluster(issue(tmp_path / "other", 1, Signer()))
    async with waiting(tmp_path, token) as host:
        assert host.codes == []
        outcome = await stranger.invite(host.invited(None))
        assert outcome.final
        assert "another cluster" in outcome.reason
        assert host.joined == []
        assert (await cluster.invite(host.invited(None))).accepted
        # It came with a token: it is given none, for nobody has proved to be this host.
        assert host.joined == [("https://192.0.2.1:7946", str(token), NODE)]
        assert cluster.minted == stranger.minted == []


async def test_who_is_gone_before_it_is_looked_at_does_not_hurt(tmp_path: Path, cluster: Cluster) -> None:
    """As those are who look which ports are open: the first of them would have ended the process."""
    async with waiting(tmp_path) as host:
        where = host.address
        for _ in range(5):
            # Nothing here waits for anything: the reset is there before the connection is taken.
            with socket.create_connection((where.host, where.port)) as visitor:
                visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert (await cluster.invite(host.invited(host.codes[0]))).accepted


async def test_garbage_does_not_hurt_and_a_host_that_waits_is_patient(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with waiting(tmp_path) as host:
        where = host.address
        for content in (b"", b"GET / HTTP/1.1\r\n\r\n", os.urandom(3000)):
            stream = await trio.open_tcp_stream(where.host, where.port)
            await stream.send_all(content or b"\x16")
            await stream.aclose()
        blind = ssl.create_default_context()
        blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
        with pytest.raises(Problem):
            async with connection(where, "/elsewhere", blind):
                pass
        for said in (b"", b"\xff" * 100, "a text", os.urandom(2000)):
            async with connection(where, invitation.PATH, blind) as (socket, _):
                invitation.decode_greeting(await socket.get_message())
                await socket.send_message(said)
                with pytest.raises(Problem):
                    invitation.decode_joined(await socket.get_message())
        monkeypatch.setattr(unclaimed, "GREETING", 0.5)
        # Those that say nothing are not waited for, and many of them keep nobody out for long.
        silent = [await trio.open_tcp_stream(where.host, where.port) for _ in range(unclaimed.MOST_CONNECTIONS + 4)]
        with trio.fail_after(SOON):
            while not (await cluster.invite(host.invited(host.codes[0]))).accepted:  # noqa: ASYNC110 - as the leader does
                await trio.sleep(0.1)
        for stream in silent:
            await trio.aclose_forcefully(stream)


def test_its_certificate_says_nothing_but_its_key() -> None:
    key = certificates.new_key()
    made = self_signed(key)
    assert certificates.belongs(made, key)
    assert certificates.named(made) is None
