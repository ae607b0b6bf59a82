"""Mutual TLS between real links on loopback: who is let in, who is not, and why."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
import structlog
import trio
from trio_websocket import ConnectionRejected, WebSocketConnection, connect_websocket, wrap_client_stream

from runtime import Spec
from runtime.links.door import Door
from runtime.links.messages import Introduce, NoIntroduction
from runtime.links.rules import Rules
from tests.runtime.links.hosts import IMPATIENT, QUICK, SOON, ended, host, raw_socket, until, want
from tests.runtime.links.messages import Double
from tests.zeitwork.trust.secured import Signer, issue, secured, transport
from zeitwork.store.trust import Signed
from zeitwork.trust import certificates
from zeitwork.trust.bootstrap import ensure_credentials
from zeitwork.trust.files import TrustFiles
from zeitwork.trust.renewal import Certificates

Log = list[dict[str, object]]


@pytest.fixture
def log() -> Iterator[Log]:
    with structlog.testing.capture_logs() as entries:
        yield entries  # type: ignore[misc]


def reasons(log: Log) -> str:
    return "\n".join(f"{entry.get('code')}: {entry.get('reason')}" for entry in log if entry["event"] == "link ended")


async def test_hosts_of_one_cluster_link(tmp_path: Path) -> None:
    signer = Signer()
    async with (
        secured(1, issue(tmp_path, 1, signer)) as one,
        secured(2, issue(tmp_path, 2, signer)) as two,
    ):
        want(one, two)
        await until(one.ups)
        assert await one.ref(two.id).ask(Double(4), timeout=SOON) == 8
        assert await two.ref(one.id).ask(Double(4), timeout=SOON) == 8
        session = two.board.peer(one.id).session
        assert session is not None
        assert session.proof is not None
        assert session.proof.host == one.id


async def refused(log: Log, tmp_path: Path, bad: TrustFiles, number: int, here: str, there: str) -> None:
    """Neither dialling nor being dialled makes a link with such a host."""
    signer_files = issue(tmp_path, 1, SIGNER)
    async with secured(1, signer_files) as one, secured(number, bad) as two:
        with pytest.raises(NoIntroduction) as caught:
            await one.links.ask(Introduce(two.address), timeout=SOON)
        assert here in str(caught.value)
        log.clear()
        with pytest.raises(NoIntroduction):
            await two.links.ask(Introduce(one.address), timeout=SOON)
        await until(lambda: there in reasons(log), there)
        assert not one.ups()
        await until(lambda: not two.board.linked())


SIGNER = Signer()


async def test_a_foreign_authority_is_refused(log: Log, tmp_path: Path) -> None:
    await refused(log, tmp_path, issue(tmp_path, 2, Signer()), 2, "untrusted", "untrusted")


async def test_an_expired_certificate_is_refused(log: Log, tmp_path: Path) -> None:
    bad = issue(tmp_path, 2, SIGNER, life=timedelta(days=1), ago=timedelta(days=2))
    await refused(log, tmp_path, bad, 2, "untrusted", "untrusted")


async def test_a_certificate_of_another_cluster_is_refused(log: Log, tmp_path: Path) -> None:
    bad = issue(tmp_path, 2, SIGNER, cluster=UUID(int=99))
    await refused(log, tmp_path, bad, 2, "the certificate is for cluster", "the certificate is for cluster")


async def test_a_certificate_of_another_host_is_refused(log: Log, tmp_path: Path) -> None:
    # Host 3 has the certificate of host 2.
    await refused(log, tmp_path, issue(tmp_path, 2, SIGNER), 3, "its certificate says", "its certificate says")


async def test_without_a_certificate_nobody_links(log: Log, tmp_path: Path) -> None:
    async with secured(1, issue(tmp_path, 1, SIGNER)) as one:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=SIGNER.made.certificate)
        for path in ("/link", "/bulk"):
            log.clear()
            with suppress(Exception):
                async with trio.open_nursery() as nursery:
                    await connect_websocket(nursery, "127.0.0.1", one.address.port, path, use_ssl=context)
            await until(lambda: "untrusted: the peer shows no certificate" in reasons(log))
        assert not one.ups()


@pytest.mark.parametrize("said", [b"GET /link HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00" + b"\xff" * 512, b""])
async def test_what_is_no_tls_is_refused(said: bytes, log: Log, tmp_path: Path) -> None:
    async with (
        secured(1, issue(tmp_path, 1, SIGNER), rules=IMPATIENT) as one,
        secured(2, issue(tmp_path, 2, SIGNER)) as two,
    ):
        want(one, two)
        await until(one.ups)
        async with raw_socket(one) as stream:
            await stream.send_all(said)
            await ended(stream)
        await until(lambda: reasons(log))
        assert await one.ref(two.id).ask(Double(4), timeout=SOON) == 8


async def test_who_goes_away_in_the_middle_of_the_handshake_is_lost_and_not_untrusted(log: Log, tmp_path: Path) -> None:
    async with secured(1, issue(tmp_path, 1, SIGNER)) as one:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        outgoing = ssl.MemoryBIO()
        shaken = context.wrap_bio(ssl.MemoryBIO(), outgoing)
        with suppress(ssl.SSLWantReadError):
            shaken.do_handshake()
        async with raw_socket(one) as stream:
            await stream.send_all(outgoing.read())
        await until(lambda: reasons(log))
        assert reasons(log).startswith("lost: ")


async def test_links_with_and_without_tls_do_not_mix(tmp_path: Path) -> None:
    async with secured(1, issue(tmp_path, 1, SIGNER), rules=IMPATIENT) as one, host(2, rules=IMPATIENT) as two:
        with pytest.raises(NoIntroduction):
            await one.links.ask(Introduce(two.address), timeout=SOON)
        with pytest.raises(NoIntroduction):
            await two.links.ask(Introduce(one.address), timeout=SOON)


async def test_tls_before_1_3_is_refused(tmp_path: Path) -> None:
    async with secured(1, issue(tmp_path, 1, SIGNER)) as one:
        context = issue(tmp_path, 2, SIGNER).contexts().client
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        stream = trio.SSLStream(await trio.open_tcp_stream("127.0.0.1", one.address.port), context)
        with pytest.raises(trio.BrokenResourceError):
            await stream.do_handshake()
        await trio.aclose_forcefully(stream)


async def test_one_host_takes_no_more_than_its_share(tmp_path: Path, log: Log) -> None:
    """One that makes connections without end, by a fault of its own, keeps no other host out."""
    few = Rules(**{**{name: getattr(QUICK, name) for name in QUICK.__slots__}, "of_one": 3, "accepted": 6})
    inside: list[str] = []

    async def handle(websocket: WebSocketConnection, remote: str) -> None:
        inside.append(remote)
        try:
            await websocket.get_message()
        finally:
            inside.remove(remote)

    doors = {"/door": Door(handle, proof=True, deadline=None)}
    faulty = transport(issue(tmp_path, 2, SIGNER))
    async with secured(1, issue(tmp_path, 1, SIGNER), doors=doors, rules=few) as one, trio.open_nursery() as nursery:

        async def knock(within: trio.Nursery = nursery) -> trio.abc.Stream:
            stream = (await faulty.dial(one.address)).stream
            await wrap_client_stream(within, stream, "h", "/door")
            return stream

        streams = [await knock() for _ in range(3)]
        for _ in range(5):
            with pytest.raises(ExceptionGroup) as caught, trio.fail_after(SOON):
                async with trio.open_nursery() as own:
                    await knock(own)
            refusal: BaseException = caught.value
            while isinstance(refusal, ExceptionGroup):
                refusal = refusal.exceptions[0]
            # Not what is said to a host that was removed.
            assert isinstance(refusal, ConnectionRejected)
            assert refusal.status_code == 503
        await until(lambda: "too-many: host" in reasons(log))
        async with secured(3, issue(tmp_path, 3, SIGNER)) as other:
            assert await other.links.ask(Introduce(one.address), timeout=SOON) == one.id
        await trio.aclose_forcefully(streams[0])
        await until(lambda: len(inside) == 2)
        await until(lambda: one.actor.accepted == 2)
        await knock()
        nursery.cancel_scope.cancel()


# ---- renewal


async def test_certificates_are_renewed_while_links_are_up(tmp_path: Path) -> None:
    signer = Signer()
    first = issue(tmp_path, 1, signer, life=timedelta(seconds=40), ago=timedelta(seconds=30))
    async with secured(1, first) as one, secured(2, issue(tmp_path, 2, signer)) as two:
        old = first.load()
        assert old is not None
        renewer = Certificates(one.id, first, signer.sign)
        await one.system.start(Spec("certificates", lambda: renewer))
        await until(lambda: renewer.renewed == 1)
        new = first.load()
        assert new is not None
        assert new.key != old.key
        assert certificates.validity(new.certificate)[1] > certificates.validity(old.certificate)[1] + 3600
        want(one, two)
        await until(one.ups)
        session = two.board.peer(one.id).session
        assert session is not None
        assert session.proof is not None
        assert session.proof.until == int(certificates.validity(new.certificate)[1])
        assert await one.ref(two.id).ask(Double(4), timeout=SOON) == 8
        assert renewer.renewed == 1, "it is not renewed again and again"


async def test_a_link_outlives_its_certificate_by_another_connection(tmp_path: Path, log: Log) -> None:
    """The certificate of one ends while the link is up; with the renewed one the link goes on."""
    signer = Signer()
    # So short that a connection is given up for its end (see RENEWAL) at once.
    short = issue(tmp_path, 1, signer, life=timedelta(seconds=31), ago=timedelta(0))
    async with secured(1, short) as one, secured(2, issue(tmp_path, 2, signer)) as two:
        want(one, two)
        await until(one.ups)
        signed = issue(tmp_path, 1, signer)
        assert signed.path == short.path
        await until(lambda: "renewal: the peer's certificate ends soon" in reasons(log))
        await until(lambda: two.ups()[1:])

        def renewed() -> bool:
            session = two.board.peer(one.id).session
            assert session is None or session.proof is not None
            return session is not None and session.proof.until > certificates.now().timestamp() + 3600

        # One that was made before the new certificate was there gives way as the first one did.
        await until(renewed)
        assert await one.ref(two.id).ask(Double(4), timeout=SOON) == 8


async def test_what_is_asked_is_answered_through_several_lives_of_both_certificates(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in weeks of a cluster: nobody starts anything anew, and the certificates of the beginning have long ended."""
    monkeypatch.setattr(certificates, "SKEW", timedelta(0))
    monkeypatch.setattr("runtime.links.session.RENEWAL", 1.0)
    signer = Signer()
    signer.life = timedelta(seconds=6)
    one_files, two_files = (issue(tmp_path, number, signer, life=signer.life) for number in (1, 2))
    first = [files.load() for files in (one_files, two_files)]
    harmless = {"renewal", "duplicate"}
    async with secured(1, one_files) as one, secured(2, two_files) as two:
        renewers = []
        for host_, files in ((one, one_files), (two, two_files)):
            renewers.append(Certificates(host_.id, files, signer.sign))
            await host_.system.start(Spec("certificates", lambda made=renewers[-1]: made))  # type: ignore[misc]
        # Either may have to make the next connection.
        want(one, two)
        want(two, one)
        await until(one.ups)
        with trio.fail_after(120):
            # A life is renewed after less than half of it: five times are two whole lives.
            while min(renewer.renewed for renewer in renewers) < 5:
                for ref in (one.ref(two.id), two.ref(one.id)):
                    assert await ref.ask(Double(4), timeout=SOON) == 8
                await trio.sleep(0.02)
        for credentials in first:
            assert credentials is not None
            assert certificates.validity(credentials.certificate)[1] < certificates.now().timestamp()
        # Connections gave way to others, and for no other reason.
        assert {down.reason.code for down in (*one.downs(), *two.downs())} <= harmless
        assert any(down.reason.code == "renewal" for down in one.downs()), "nothing was tested"
        assert "expired" not in reasons(log)


async def test_a_renewal_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeitwork.trust.renewal.FIRST_WAIT", 0.01)
    signer = Signer()
    files = issue(tmp_path, 1, signer, life=timedelta(seconds=40), ago=timedelta(seconds=39))
    tries: list[int] = []

    async def sign(who: UUID, request: bytes):  # type: ignore[no-untyped-def]
        tries.append(1)
        if len(tries) < 4:
            raise OSError("the database is away")
        return await signer.sign(who, request)

    async with secured(1, files) as one:
        renewer = Certificates(one.id, files, sign)
        await one.system.start(Spec("certificates", lambda: renewer))
        await until(lambda: renewer.renewed == 1)
        assert len(tries) == 4


async def test_a_certificate_that_begins_later_is_replaced_once_the_clock_is_right(tmp_path: Path) -> None:
    """The clock was a day ahead when it was made, and was set back: nobody takes it until tomorrow."""
    signer = Signer()
    files = issue(tmp_path, 1, signer, ago=timedelta(days=-1))
    async with secured(1, files) as one, secured(2, issue(tmp_path, 2, signer)) as two:
        with pytest.raises(NoIntroduction):
            await two.links.ask(Introduce(one.address), timeout=SOON)
        renewer = Certificates(one.id, files, signer.sign)
        await one.system.start(Spec("certificates", lambda: renewer))
        await until(lambda: renewer.renewed)
        assert await two.links.ask(Introduce(one.address), timeout=SOON) == one.id
        assert await one.ref(two.id).ask(Double(4), timeout=SOON) == 8
        assert renewer.renewed == 1


async def test_a_certificate_of_a_wrong_clock_does_not_replace_a_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    monkeypatch.setattr("zeitwork.trust.renewal.FIRST_WAIT", 0.01)
    signer, ahead = Signer(), [timedelta(days=1)] * 2
    files = issue(tmp_path, 1, signer, life=timedelta(hours=1), ago=timedelta(minutes=50))
    good = files.load()

    async def sign(who: UUID, request: bytes) -> Signed:
        if not ahead:
            return await signer.sign(who, request)
        assert files.load() == good
        now = certificates.now() + ahead.pop()
        pem = certificates.sign(signer.made, request, cluster=signer.cluster, host=who, now=now)
        return Signed(pem, signer.made.certificate, signer.cluster)

    async with secured(1, files) as one:
        renewer = Certificates(one.id, files, sign)
        await one.system.start(Spec("certificates", lambda: renewer))
        await until(lambda: renewer.renewed == 1)
    assert [entry["event"] for entry in log].count("certificate not renewed") == 2


async def test_settings_are_made_once_for_each_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever connects without being anybody costs no reading of keys."""
    files, signer = issue(tmp_path, 1, SIGNER), Signer()
    loads: list[int] = []
    load = TrustFiles.load
    monkeypatch.setattr(TrustFiles, "load", lambda self: (loads.append(1), load(self))[1])
    async with secured(1, files) as one:
        for _ in range(5):
            async with raw_socket(one) as stream:
                await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
                await ended(stream)
        assert len(loads) == 1
        # What was renewed counts for the next connection.
        issue(tmp_path, 1, signer)
        async with secured(2, issue(tmp_path, 2, signer)) as two:
            assert await two.links.ask(Introduce(one.address), timeout=SOON) == one.id


async def test_a_machine_that_says_nothing_at_all_is_given_up_at_both_ends(tmp_path: Path) -> None:
    """What waits behind a door for a host that lost its power would wait for ever, and take the room of others."""
    seen: list[dict[str, int]] = []

    def note(stream: trio.SSLStream[trio.SocketStream]) -> None:
        names = {"SO_KEEPALIVE": socket.SOL_SOCKET, "TCP_USER_TIMEOUT": socket.IPPROTO_TCP}
        tcp = stream.transport_stream
        seen.append({name: int(tcp.getsockopt(level, getattr(socket, name))) for name, level in names.items()})

    async def handle(websocket: WebSocketConnection, remote: str) -> None:
        note(websocket._stream)
        await websocket.aclose()

    doors = {"/door": Door(handle, proof=True, deadline=None)}
    async with secured(1, issue(tmp_path, 1, SIGNER), doors=doors) as one, trio.open_nursery() as nursery:
        made = await transport(issue(tmp_path, 2, SIGNER)).dial(one.address)
        note(made.stream)  # type: ignore[arg-type]
        await wrap_client_stream(nursery, made.stream, "h", "/door")
        await until(lambda: len(seen) == 2)
        nursery.cancel_scope.cancel()
    assert seen == [{"SO_KEEPALIVE": 1, "TCP_USER_TIMEOUT": 15_000}] * 2


async def test_a_host_with_the_database_makes_its_own_certificate(tmp_path: Path) -> None:
    signer, files = Signer(), TrustFiles(tmp_path / "trust")
    now = certificates.now().timestamp()

    async def ensure(by: Signer, at: float = now) -> str:
        made = await ensure_credentials(files, UUID(int=1), by.sign, authority=by.made.certificate, now=at)
        assert files.load() == made
        return made.certificate

    first = await ensure(signer)
    assert await ensure(signer) == first
    assert signer.signed == 1
    assert await ensure(signer, now + 8 * 24 * 3600) != first, "it has ended"
    first = await ensure(signer)
    assert await ensure(signer, now - 24 * 3600) != first, "it has not begun"
    other = Signer()
    await ensure(other)
    assert other.signed == 1, "the database has another authority"
