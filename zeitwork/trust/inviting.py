"""How the cluster invites an unclaimed host: connect, know each other, say where to join, hear how that went."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

import structlog

from actors.model.errors import Failed, Problem, Unavailable
from actors.registrar.invite import Invited, Outcome
from runtime.lease import Fenced, Term
from runtime.links.transport import Address
from zeitwork.trust import certificates, invitation
from zeitwork.trust.files import TrustFiles, base_context
from zeitwork.trust.invitation import Code, parse_code
from zeitwork.trust.join import connection
from zeitwork.trust.token import Token, new_token

#: Seconds for all of it: the host joins before it answers.
DEADLINE = 40.0
#: How long the token lives that goes with an invitation: it is used while the answer is waited for.
TOKEN_LIFE = timedelta(minutes=2)
#: Refusals that no other try changes.
_FINAL = frozenset({"wrong-code", "wrong-cluster", "needs-code", "invalid-input", "removed", "local-database"})

_log = structlog.get_logger().bind(part="inviting")


class Inviting:
    """`actors.registrar.invite_store.Inviting` over TLS.

    ``address`` is where this host is reached. ``mint`` enters a token for one node, in
    place of the one that it had before (`zeitwork.store.invitations.Invitations.mint`).
    """

    def __init__(
        self,
        files: TrustFiles,
        address: Address,
        mint: Callable[[UUID, Token, timedelta, Term], Awaitable[None]],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._files = files
        self._address = address
        self._mint = mint
        self._entropy = entropy

    async def invite(self, one: Invited, term: Term) -> Outcome:
        """Invite a host once; what goes wrong is in the outcome. Raises what the database does, `Fenced` too."""
        try:
            code = None if one.code is None else parse_code(one.code)
            host = await self._talk(one, code, f"https://{self._address}", term)
        except Problem as problem:
            detail = problem.detail
            if problem.code == "closed":
                # What a host does that waits for nobody: to one that is a member already, an invitation is garbage.
                detail += ": it is no unclaimed host (zeitwork run --unclaimed), or of a cluster already"
            return Outcome(False, detail, final=problem.code in _FINAL)
        except ExceptionGroup as group:
            # What happens while a connection stands comes out of its nursery.
            error: Exception = group
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            if isinstance(error, Fenced):
                raise error from None
            _log.warning("an invitation failed", node=str(one.node_id), error=repr(group)[:500])
            return Outcome(False, "its answer can't be understood: see the log of the host that leads")
        _log.info("a host has accepted its invitation", node=str(one.node_id), host=str(host), address=one.address)
        return Outcome(True, "")

    async def _talk(self, one: Invited, code: Code | None, join: str, term: Term) -> UUID:
        credentials = self._files.load()
        if credentials is None:
            raise Unavailable("the host that leads has no certificate yet")
        # Nothing is known of the other side but by the code, and nothing is said to it before that has been compared.
        blind = base_context(ssl.PROTOCOL_TLS_CLIENT)
        blind.verify_mode = ssl.CERT_NONE
        async with connection(Address.parse(one.address), invitation.PATH, blind, deadline=DEADLINE) as (socket, tls):
            shown = tls.getpeercert(binary_form=True)
            fingerprint = certificates.digest(shown or b"")
            if code is not None and not code.names(fingerprint):
                raise Failed(
                    "the host at that address is not the one that printed the code, or was started anew since",
                    code="wrong-host",
                )
            greeting = invitation.decode_greeting(await _bytes(socket.get_message()))
            if greeting.needs == "code" and code is None:
                raise Problem("the host accepts only with the code that it prints", code="needs-code", status=403)
            token = ""
            if greeting.needs == "code":
                made = new_token(certificates.fingerprint(credentials.authority), self._entropy)
                await self._mint(one.node_id, made, TOKEN_LIFE, term)
                token = str(made)
            offered = invitation.invite(credentials, greeting, fingerprint, join=join, node=one.node_id, code=code)
            await socket.send_message(invitation.encode_invitation(offered, token))
            return invitation.decode_joined(await _bytes(socket.get_message()))


async def _bytes(message: Awaitable[str | bytes]) -> bytes:
    said = await message
    return said if isinstance(said, bytes) else said.encode()
