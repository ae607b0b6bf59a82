"""A host that waits to be invited: it listens with a key of its own, and joins the cluster that may invite it."""

from __future__ import annotations

import os
import ssl
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import structlog
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from trio_websocket import WebSocketConnection, wrap_server_stream

from actors.model.errors import Conflict, InvalidInput, Problem, Unavailable
from runtime import Environment
from runtime.failure import sift
from runtime.links.transport import Address
from zeitwork.trust import certificates, exchange, invitation
from zeitwork.trust.attempts import Attempts
from zeitwork.trust.files import base_context
from zeitwork.trust.invitation import Code, Greeting, Invitation
from zeitwork.trust.token import Token

#: Seconds for which a code is good; then there is another one.
CODE_LIFE = 3600.0
#: Wrong codes after which the right one is worth nothing, and seconds until there is another one.
MOST_WRONG, LOCKED = 5, 60.0
#: Connections at once; seconds to say what they want, and for the join that follows.
MOST_CONNECTIONS, GREETING, JOINING = 16, 10.0, 45.0

_log = structlog.get_logger().bind(part="unclaimed")


class Unclaimed:
    """Waits at ``listening`` to be invited.

    ``token`` is the join token it was given, None for one that prints a code: ``say`` gets each code that is good from
    then on, which is for nobody but the operator. ``join`` is called with where to go, a token and the node's id; it
    raises a `Problem` when that does not work, and the host can be invited again then.
    """

    def __init__(
        self,
        listening: tuple[str | None, int],
        hostname: str,
        host: UUID,
        env: Environment,
        *,
        token: Token | None,
        say: Callable[[Code], None],
        join: Callable[[str, str, UUID], Awaitable[None]],
    ) -> None:
        self._listening = listening
        self._hostname = hostname
        self._host = host
        self._env = env
        self._token = token
        self._say = say
        self._join = join
        self._attempts = Attempts(each=20)
        self._connections = 0
        self._busy = False
        self._accepted = trio.Event()
        self._key = certificates.new_key()
        self._certificate = self_signed(self._key)
        self._fingerprint = certificates.fingerprint(self._certificate)
        self._code: Code | None = None
        self._until = 0.0
        self._wrong = 0
        #: Where it listens, once it does.
        self.address: Address | None = None

    async def run(self, directory: Path, *, task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until an invitation was accepted and the cluster joined. Raises `OSError` when it can't listen.

        ``directory`` is where the key is for the moment in which it is read. Does not end by itself otherwise.
        """
        context = _context(directory, self._key, self._certificate)
        host, port = self._listening
        listeners = await trio.open_tcp_listeners(port, host=host)
        where = listeners[0].socket.getsockname()
        self.address = Address(where[0], where[1])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio.serve_listeners, partial(self._serve, context), listeners))
            if self._token is None:
                nursery.start_soon(self._renew)
            task_status.started(self.address)
            await self._accepted.wait()
            nursery.cancel_scope.cancel()

    async def _renew(self) -> None:
        """See to it that there is a code that is good."""
        while True:
            now = self._env.monotonic()
            if now >= self._until:
                self._code = invitation.new_code(self._fingerprint, self._env.entropy)
                self._until, self._wrong = now + CODE_LIFE, 0
                self._say(self._code)
            await trio.sleep(max(1.0, min(LOCKED, self._until - now)))

    async def _serve(self, context: ssl.SSLContext, tcp: trio.SocketStream) -> None:
        try:
            remote = str(tcp.socket.getpeername()[0])
        except OSError:
            remote = ""  # gone already, as those are who only look which ports are open
        if not remote or self._connections >= MOST_CONNECTIONS:
            await trio.aclose_forcefully(tcp)
            return
        self._connections += 1
        try:
            async with trio.open_nursery() as nursery:
                with trio.move_on_after(GREETING + JOINING):
                    await self._welcome(trio.SSLStream(tcp, context, server_side=True), remote, nursery)
                nursery.cancel_scope.cancel()
        except BaseException as error:
            # Whoever knocks with garbage ends their own connection only.
            failure, fatal = sift(error)
            if fatal is not None:
                raise fatal from None
            _log.info("a visitor left", remote=remote, reason=repr(failure)[:300])
        finally:
            self._connections -= 1
            await trio.aclose_forcefully(tcp)

    async def _welcome(self, stream: trio.SSLStream[trio.SocketStream], remote: str, nursery: trio.Nursery) -> None:
        with trio.fail_after(GREETING):
            await stream.do_handshake()
            request = await wrap_server_stream(nursery, stream, max_message_size=exchange.LONGEST)
            if request.path != invitation.PATH:
                await request.reject(404)
                return
            socket = await request.accept()
            nonce = self._env.entropy(32)
            greeting = Greeting("code" if self._token is None else "cluster", self._hostname, nonce)
            await socket.send_message(invitation.encode_greeting(greeting))
            message = await socket.get_message()
        try:
            await self._answer(message, remote, nonce)
        except Problem as problem:
            _log.warning("invitation not accepted", remote=remote, code=problem.code, reason=str(problem))
            await _say_and_leave(socket, exchange.encode_problem(problem))
            return
        # Whatever becomes of the answer, this host is of the cluster now.
        try:
            await _say_and_leave(socket, invitation.encode_joined(self._host))
        finally:
            self._accepted.set()

    async def _answer(self, message: str | bytes, remote: str, nonce: bytes) -> None:
        if not self._attempts.allow(remote, self._env.monotonic()):
            raise Unavailable("too many invitations from there", code="too-many-attempts", status=429)
        if isinstance(message, str):
            raise InvalidInput("an invitation is bytes", field="invitation")
        offered = invitation.decode_invitation(message)
        if self._token is not None:
            invitation.check_cluster(offered, self._token.fingerprint, nonce, self._fingerprint, self._env.now())
            token = str(self._token)
        else:
            self._check_code(offered)
            token = offered.token
        if self._busy or self._accepted.is_set():
            raise Conflict("another invitation is being carried out", code="invitation-under-way")
        self._busy = True
        try:
            _log.info("invited", by=remote, join=offered.join, node=str(offered.node))
            await self._join(offered.join, token, offered.node)
        finally:
            self._busy = False

    def _check_code(self, offered: Invitation) -> None:
        if self._code is None or self._env.monotonic() >= self._until:
            raise Unavailable("no code is good at the moment: the next one comes soon", code="too-many-attempts")
        if invitation.check_secret(offered, self._code):
            return
        self._wrong += 1
        if self._wrong >= MOST_WRONG:
            _log.warning("the code is worth nothing any more: too many wrong ones came", another_in=LOCKED)
            self._code, self._until = None, self._env.monotonic() + LOCKED
        raise Problem(
            "the code is not the one that the host shows now",
            field="code",
            code="wrong-code",
            status=403,
            fix="take the code that it printed last",
        )


async def _say_and_leave(socket: WebSocketConnection, message: bytes) -> None:
    with trio.move_on_after(GREETING):
        await socket.send_message(message)
        await socket.aclose(1000, None)


def self_signed(key: str) -> str:
    """Return a certificate (PEM) that says nothing but which key it is of; known by its fingerprint only."""
    loaded = serialization.load_pem_private_key(key.encode(), None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "zeitwork unclaimed host")])
    now = certificates.now()
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(loaded.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - certificates.SKEW)
        .not_valid_after(now + timedelta(days=3650))
        .sign(loaded, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


def _context(directory: Path, key: str, certificate: str) -> ssl.SSLContext:
    """Return the server's TLS settings. The library reads keys from files only: this one is gone at once."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / f".unclaimed-{uuid4().hex}.pem"
    context = base_context(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(key + certificate)
        context.load_cert_chain(path)
    finally:
        path.unlink(missing_ok=True)
    return context
