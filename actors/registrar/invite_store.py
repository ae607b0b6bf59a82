"""What the inviter needs of storage, and of whoever talks to hosts that have not joined."""

from __future__ import annotations

from typing import Protocol

from actors.registrar.invite import Invited, Outcome
from runtime.lease import Term


class InviteStore(Protocol):
    """Who is expected. Each write is of one request (``Invited.asked``): it does nothing once there is a newer one."""

    async def expected(self) -> tuple[Invited, ...]:
        """Return hosts that are to be invited or waited for, those that asked first before others."""

    async def tried(self, invited: Invited, outcome: Outcome, term: Term) -> None:
        """Write how a try went. Its code is forgotten if it was used or is worth nothing. Raises `Fenced`."""

    async def give_up(self, invited: Invited, reason: str, term: Term) -> None:
        """Write that it has come to nothing: the node is in error. Raises `Fenced`."""

    async def finish(self, invited: Invited, term: Term) -> None:
        """Forget that it was invited: it has come. Raises `Fenced`."""


class Inviting(Protocol):
    """The way to hosts that are of no cluster."""

    async def invite(self, one: Invited, term: Term) -> Outcome:
        """Invite a host once; what goes wrong on the way is in the outcome."""
