"""The join over real connections: the doors of a host of the cluster, and the new host that knocks."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol
from urllib.parse import urlsplit
from uuid import UUID

import structlog
import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, wrap_client_stream

from actors.model.errors import Failed, InvalidInput, Problem, Unavailable
from runtime.links.door import Door
from runtime.links.transport import Address, Untrusted
from zeitwork.store.trust import Signed
from zeitwork.trust import certificates, exchange
from zeitwork.trust.attempts import Attempts
from zeitwork.trust.files import Credentials, base_context
from zeitwork.trust.reach import refuse_local, said
from zeitwork.trust.token import hash_secret, parse_token

#: Seconds for each of the two connections of a join.
DEADLINE = 10.0
#: Port of links where the address has none.
DEFAULT_PORT = 7946

_log = structlog.get_logger().bind(part="join")


class Signer(Protocol):
    """Who signs new hosts: `zeitwork.store.trust.Trust`."""

    async def authority(self) -> str:
        """Return the authority's certificate."""

    async def redeem(
        self, token: UUID, secret_hash: bytes, *, host: UUID, request: bytes, remote: str, node: UUID | None = None
    ) -> Signed:
        """Use a token up and sign; raises a `Problem`."""


class JoinDoors:
    """What a host of the cluster answers to those without a certificate.

    ``host`` is its id on links and ``machine`` the one in its data directory; ``database`` is the DSN that new hosts
    shall use, None for the tunnel. ``monotonic`` in seconds.
    """

    def __init__(
        self,
        signer: Signer,
        host: UUID,
        database: str | None,
        monotonic: Callable[[], float],
        attempts: Attempts | None = None,
        machine: UUID | None = None,
    ) -> None:
        self._signer = signer
        self._host = host
        self._machine = machine or host
        self._database = database
        self._monotonic = monotonic
        self._attempts = attempts or Attempts()
        self._authority: str | None = None

    def doors(self) -> Mapping[str, Door]:
        """Return the paths for `runtime.links.links.Links`."""
        return {exchange.SHOW: Door(self.show), exchange.JOIN: Door(self.join)}

    async def show(self, socket: WebSocketConnection, remote: str) -> None:  # noqa: ARG002
        """Show the authority's certificate, which is no secret."""
        if self._authority is None:
            self._authority = await self._signer.authority()
        await socket.send_message(exchange.encode_authority(self._authority))
        await socket.aclose(1000, None)

    async def join(self, socket: WebSocketConnection, remote: str) -> None:
        """Let a new host in, or tell it why not."""
        message = await socket.get_message()
        try:
            answer = await self._answer(message, remote)
        except Problem as problem:
            _log.warning("host not let in", remote=remote, code=problem.code, reason=str(problem))
            answer = exchange.encode_problem(problem)
        await socket.send_message(answer)
        await socket.aclose(1000, None)

    async def _answer(self, message: str | bytes, remote: str) -> bytes:
        address = remote.rpartition(":")[0]
        if not self._attempts.allow(address, self._monotonic()):
            raise Unavailable(
                "too many attempts to join from there", code="too-many-attempts", status=429, fix="wait a minute"
            )
        if isinstance(message, str):
            raise InvalidInput("a join request is bytes", field="join")
        asked = exchange.decode_request(message)
        if asked.host == self._machine:
            raise InvalidInput(
                "the new host has the id of a host of the cluster",
                field="host",
                fix="its data directory is a copy: use an empty one",
            )
        if self._database is not None and not asked.database:
            # Before the token is used up: it is good once it was mended.
            refuse_local(self._database, address)
        signed = await self._signer.redeem(
            asked.token,
            hash_secret(asked.secret),
            host=asked.host,
            request=asked.request,
            remote=remote,
            node=asked.node,
        )
        _log.info("host let in", host=str(asked.host), hostname=asked.hostname, remote=remote)
        welcome = exchange.Welcome(signed.certificate, signed.authority, signed.cluster, self._database, self._host)
        return exchange.encode_welcome(welcome)


def join_address(url: str) -> Address:
    """Return where ``https://HOST[:PORT]`` points. Raises `InvalidInput`."""
    fix = f"give the one that zeitwork token create printed, for example https://192.0.2.1:{DEFAULT_PORT}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidInput(f"{url!r} is not an address to join: {error}", field="join", fix=fix) from None
    if parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.username:
        raise InvalidInput(f"{url!r} is not an address to join", field="join", fix=fix)
    return Address(parts.hostname, port or DEFAULT_PORT)


async def join(
    url: str, token: str, *, host: UUID, hostname: str, key: str, node: UUID | None = None, database: bool = False
) -> tuple[exchange.Welcome, Credentials]:
    """Join a cluster: return what it says and what to save. ``key`` is this host's, PEM; keep it for a second try.

    ``node`` is what it was invited as; ``database``: this host was given a DSN, and needs none of the cluster's.

    Raises a `Problem` whose ``detail`` and ``fix`` are for people; nothing has changed here then.
    """
    address, brought = join_address(url), parse_token(token)
    blind = base_context(ssl.PROTOCOL_TLS_CLIENT)
    # Nothing is known of the other side yet, and nothing is said to it: what it shows is compared with the token.
    blind.verify_mode = ssl.CERT_NONE
    async with connection(address, exchange.SHOW, blind) as (socket, _):
        authority = exchange.check_authority(await _message(socket), brought)
    trusting = base_context(ssl.PROTOCOL_TLS_CLIENT)
    trusting.load_verify_locations(cadata=authority)
    async with connection(address, exchange.JOIN, trusting) as (socket, stream):
        cluster, peer = certificates.host_of(stream.getpeercert() or {})
        asked = exchange.JoinRequest(
            brought.id, brought.secret, host, hostname, certificates.request(key), node=node, database=database
        )
        await socket.send_message(exchange.encode_request(asked))
        welcome = exchange.decode_welcome(await _message(socket), key=key, authority=authority)
    if (welcome.cluster, welcome.peer) != (cluster, peer):
        raise Failed("the host at the join address says it is another one than its certificate", code="bad-answer")
    return welcome, Credentials(key, welcome.certificate, authority)


async def _message(socket: WebSocketConnection) -> bytes:
    message = await socket.get_message()
    return message if isinstance(message, bytes) else message.encode()


@asynccontextmanager
async def connection(
    address: Address, path: str, context: ssl.SSLContext, *, deadline: float | None = None
) -> AsyncIterator[tuple[WebSocketConnection, trio.SSLStream[trio.SocketStream]]]:
    """Connect, all of what is done with it included in one deadline; what goes wrong becomes a `Problem`."""
    deadline = DEADLINE if deadline is None else deadline
    try:
        with trio.fail_after(deadline):
            async with trio.open_nursery() as nursery:
                tcp = await trio.open_tcp_stream(address.host, address.port)
                stream = trio.SSLStream(tcp, context)
                try:
                    await stream.do_handshake()
                    socket = await wrap_client_stream(
                        nursery, stream, str(address), path, max_message_size=exchange.LONGEST
                    )
                    yield socket, stream
                finally:
                    await trio.aclose_forcefully(stream)
                    nursery.cancel_scope.cancel()
    except BaseException as error:
        problem = _problem_of(error, address, deadline)
        if problem is None:
            raise
        raise problem from error


def _problem_of(error: BaseException, address: Address, deadline: float) -> Problem | None:
    """Return what a person should read, None for what must pass."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    fix = "check the address, that zeitwork runs there, and that no firewall is between"
    match error:
        case Problem():
            return error
        case trio.TooSlowError():
            return Unavailable(f"{address} did not answer within {deadline:g} s", field="join", fix=fix)
        case trio.BrokenResourceError() if isinstance(error.__cause__, ssl.SSLError):
            why = error.__cause__.reason or str(error.__cause__)
            return Failed(f"TLS with {address} failed: {why}", field="join", code="untrusted", fix=fix)
        case ConnectionClosed() | HandshakeError() | trio.BrokenResourceError() | trio.ClosedResourceError():
            return Unavailable(f"{address} closed the connection", field="join", fix=fix, code="closed")
        case Untrusted():
            return Failed(f"{address}: {error}", field="join", code="untrusted", fix=fix)
        case OSError():
            return Unavailable(f"{address} can't be reached: {said(error)}", field="join", fix=fix)
    return None
