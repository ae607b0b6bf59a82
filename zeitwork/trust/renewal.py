"""The actor that renews this host's certificate before half of its life, while links stay up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

from actors.model.errors import Failed
from runtime.actor import Actor
from runtime.message import Message
from zeitwork.store.trust import Signed
from zeitwork.trust import certificates
from zeitwork.trust.files import Credentials, TrustFiles

#: Name of the one actor of this kind.
NAME = "certificates"
#: The part of its life after which a certificate is renewed, drawn between the two.
EARLIEST, LATEST = 0.35, 0.45
#: Seconds between attempts that fail: the first, and the longest.
FIRST_WAIT, LONGEST_WAIT = 5.0, 600.0
#: Seconds for one attempt, and the longest sleep: the machine may have been suspended meanwhile, or its clock set.
DEADLINE, LONGEST_SLEEP = 30.0, 60.0


@dataclass(frozen=True, slots=True)
class _Look(Message):
    """It may be time."""


@dataclass(frozen=True, slots=True)
class _Renewed(Message):
    until: float


@dataclass(frozen=True, slots=True)
class _NotRenewed(Message):
    error: Exception


class Certificates(Actor):
    """``sign`` is `zeitwork.store.trust.Trust.sign`. What it writes is used for each connection made from then on.

    Connections made before stay until the certificate that was shown at their beginning ends (see ``Proof.until``).
    """

    def __init__(self, host: UUID, files: TrustFiles, sign: Callable[[UUID, bytes], Awaitable[Signed]]) -> None:
        self._host = host
        self._files = files
        self._sign = sign
        self._failures = 0
        self._share = LATEST
        #: How often it has renewed.
        self.renewed = 0

    async def init(self) -> None:
        """Look at once."""
        self._share = self.ctx.env.random.uniform(EARLIEST, LATEST)
        self.ctx.ref.tell(_Look())

    async def receive(self, message: Message) -> None:
        """Renew when it is time."""
        match message:
            case _Look():
                self._look()
            case _Renewed(until):
                self._failures, self.renewed = 0, self.renewed + 1
                self._share = self.ctx.env.random.uniform(EARLIEST, LATEST)
                self.ctx.log.info("certificate renewed", seconds_left=round(until - self.ctx.env.now()))
                self.ctx.after(0.0, _Look())
            case _NotRenewed(error):
                wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0**self._failures) * self.ctx.env.random.uniform(0.5, 1.0)
                self._failures = min(self._failures + 1, 20)
                self.ctx.log.warning("certificate not renewed", error=str(error), again_in=round(wait))
                self.ctx.after(wait, _Look())
            case _:
                self.ctx.log.warning("unknown message", message=type(message).__name__)

    def _look(self) -> None:
        try:
            credentials, error = self._files.load(), None
        except Failed as failure:
            credentials, error = None, failure
        if credentials is None:
            self.ctx.log.error("this host has no certificate", path=str(self._files.path), error=str(error or ""))
            self.ctx.after(LONGEST_WAIT, _Look())
            return
        since, until = certificates.validity(credentials.certificate)
        due = since + (until - since) * self._share
        now = self.ctx.env.now()
        left = due - now
        # One that begins later was made while the clock was ahead: until then nobody would take it.
        if left > 0 and since <= now:
            self.ctx.after(min(left, LONGEST_SLEEP), _Look())
            return
        self.ctx.effect(self._renew, credentials, name="renew", deadline=DEADLINE, then=_Renewed, failed=_NotRenewed)

    async def _renew(self, old: Credentials) -> float:
        key = certificates.new_key()
        signed = await self._sign(self._host, certificates.request(key))
        since, until = certificates.validity(signed.certificate)
        if not since <= self.ctx.env.now() < until:
            raise Failed("the new certificate is not valid now: is the clock right?", code="wrong-clock")
        self._files.save(Credentials(key, signed.certificate, old.authority))
        return until
