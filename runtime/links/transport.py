"""How connections come to be: TCP, with TLS around it where contexts are given."""

from __future__ import annotations

import socket as sockets
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Protocol
from uuid import UUID

import trio

from runtime.links.errors import FrameError

#: Seconds without any acknowledgement after which a connection is over, whoever waits on it and for what.
UNACKNOWLEDGED = 15.0


class Untrusted(FrameError):
    """The peer has no certificate, or none that the cluster's authority signed, or one that names another host."""

    code = "untrusted"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a host listens for links."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the address of ``HOST:PORT`` or ``[HOST]:PORT``; raises `ValueError`."""
        host, separator, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if not separator or not port.isdecimal() or not 0 < int(port) < 65536 or (":" in host and not bracketed):
            raise ValueError(f"{text!r} is not HOST:PORT")
        host = host[1:-1] if bracketed else host
        if not host:
            raise ValueError(f"{text!r} is not HOST:PORT")
        return cls(host, int(port))


@dataclass(frozen=True, slots=True)
class Proof:
    """What a peer's certificate says: which host it is, and until when (seconds since 1970)."""

    host: UUID
    until: float


@dataclass(frozen=True, slots=True)
class Secured:
    """A connection that is ready for use. ``proof`` is None where none was asked for."""

    stream: trio.abc.Stream
    proof: Proof | None = None


class Transport(Protocol):
    """What links run over."""

    #: Whether peers must show a certificate.
    proves: bool

    async def listen(self) -> Sequence[trio.abc.Listener[Any]]:
        """Begin to listen; raises `OSError`."""

    async def admit(self, stream: trio.abc.Stream) -> Secured:
        """Do the handshake with one who has dialled. Raises `Untrusted`, `OSError` or trio's errors of streams."""

    async def dial(self, address: Address) -> Secured:
        """Connect. Raises `Untrusted`, `OSError` or trio's errors of streams."""


class PlainTransport:
    """TCP without any proof of who is who: on loopback only, for tests and measurements."""

    proves = False

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        if not ip_address(host).is_loopback:
            raise ValueError(f"{host} is not a loopback address: links beyond this machine need TLS")
        self._host, self._port = host, port

    async def listen(self) -> Sequence[trio.SocketListener]:
        """See `Transport.listen`."""
        return await trio.open_tcp_listeners(self._port, host=self._host)

    async def admit(self, stream: trio.abc.Stream) -> Secured:
        """Return it as it is."""
        await trio.lowlevel.checkpoint()
        return Secured(stream)

    async def dial(self, address: Address) -> Secured:
        """See `Transport.dial`."""
        if not ip_address(address.host).is_loopback:
            raise Untrusted(f"{address} is not on this machine: links beyond it need TLS")
        return Secured(await trio.open_tcp_stream(address.host, address.port))


@dataclass(frozen=True, slots=True)
class Contexts:
    """The TLS settings of one host at one time; both verify the peer's certificate.

    The server's may do so only if there is one (``CERT_OPTIONAL``): links refuse peers without, other doors may not.
    """

    server: ssl.SSLContext
    client: ssl.SSLContext


class TlsTransport:
    """TCP with mutual TLS. ``host`` None listens on all interfaces.

    ``contexts`` is called for each connection, so that a renewed certificate counts at once. ``identify`` reads a
    verified certificate, as ``SSLSocket.getpeercert`` gives it; raises `Untrusted`.
    """

    proves = True

    def __init__(
        self,
        host: str | None,
        port: int,
        contexts: Callable[[], Contexts],
        identify: Callable[[Mapping[str, Any]], Proof],
    ) -> None:
        self._host, self._port = host, port
        self._contexts = contexts
        self._identify = identify

    async def listen(self) -> Sequence[trio.SocketListener]:
        """See `Transport.listen`."""
        return await trio.open_tcp_listeners(self._port, host=self._host)

    async def admit(self, stream: trio.abc.Stream) -> Secured:
        """See `Transport.admit`."""
        return await self._shake(trio.SSLStream(stream, self._contexts().server, server_side=True))

    async def dial(self, address: Address) -> Secured:
        """See `Transport.dial`."""
        context = self._contexts().client
        stream = await trio.open_tcp_stream(address.host, address.port)
        return await self._shake(trio.SSLStream(stream, context))

    async def _shake(self, stream: trio.SSLStream[Any]) -> Secured:
        try:
            give_up_silence(stream.transport_stream)
            await stream.do_handshake()
            certificate = stream.getpeercert()
            return Secured(stream, self._identify(certificate) if certificate else None)
        except BaseException as error:
            await trio.aclose_forcefully(stream)
            cause = error.__cause__
            # Who goes away in the middle proves nothing: it was cut off, or gave up waiting. OpenSSL's versions differ
            # in which of these that is.
            ended = isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError)
            if isinstance(error, trio.BrokenResourceError) and isinstance(cause, ssl.SSLError) and not ended:
                raise Untrusted(f"TLS handshake failed: {cause.reason or cause}") from error
            raise


def give_up_silence(stream: trio.abc.Stream) -> None:
    """Let a connection break when the other machine says nothing at all any more, `UNACKNOWLEDGED` seconds later.

    Links ping by themselves. What other doors lead to may wait for ever for a host that lost its power.
    """
    if isinstance(stream, trio.SocketStream):
        stream.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_USER_TIMEOUT, int(UNACKNOWLEDGED * 1000))
        stream.setsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE, 1)
        stream.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_KEEPIDLE, 5)
        stream.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_KEEPINTVL, 3)
