"""Invites hosts that were created through the API. Runs under the leader."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from actors.registrar.invite import INTERVAL, Finish, GiveUp, Invite, Invited, Outcome, State, ended, look
from actors.registrar.invite_messages import Found, Look, NotFound, NotTried, NotWritten, Tried, Written
from actors.registrar.invite_store import InviteStore, Inviting
from runtime import Actor, Message
from runtime.lease import Fenced
from runtime.office import Office

#: Name of the one actor of this kind.
NAME = "inviter"
#: Seconds that a look may take, a try, and the writing of what either led to.
LOOK_DEADLINE, TRY_DEADLINE, WRITE_DEADLINE = 5.0, 60.0, 10.0
#: Longest wait in seconds after looks that failed.
BACKOFF_MAX = 16.0


class Inviter(Actor):
    """One look at a time, tries beside it."""

    def __init__(self, store: InviteStore, inviting: Inviting, office: Office) -> None:
        self._store = store
        self._inviting = inviting
        self._office = office
        self._state = State()
        self._failures = 0

    async def init(self) -> None:
        """Look for the first time."""
        self.ctx.ref.tell(Look())

    async def receive(self, message: Message) -> None:
        """Look, invite whom it is time for, and have written what came of it."""
        match message:
            case Look():
                self.ctx.effect(self._store.expected, name="look", deadline=LOOK_DEADLINE, then=Found, failed=NotFound)
            case Found(invited):
                self._failures = 0
                self._found(invited)
            case Tried(invited):
                self._state = ended(self._state, invited, self.ctx.env.monotonic(), self.ctx.env.random.random)
            case NotTried(invited, error):
                self._state = ended(self._state, invited, self.ctx.env.monotonic(), self.ctx.env.random.random)
                self.ctx.log.warning("an invitation broke off", node=str(invited.node_id), error=str(error))
            case Written():
                self.ctx.after(INTERVAL, Look())
            case NotFound(error) | NotWritten(error):
                self._failures += 1
                ceiling = min(BACKOFF_MAX, INTERVAL * 2 ** min(self._failures, 10))
                wait = self.ctx.env.random.uniform(ceiling / 2, ceiling)
                self.ctx.log.warning("nobody is invited for now", error=str(error), again_in=round(wait, 1))
                self.ctx.after(wait, Look())
            case _:
                self.ctx.log.warning("unknown message", message=type(message).__name__)

    def _found(self, invited: Sequence[Invited]) -> None:
        env = self.ctx.env
        self._state, effects = look(self._state, invited, env.monotonic(), env.random.random)
        for effect in effects:
            if isinstance(effect, Invite):
                one = effect.invited
                self.ctx.effect(
                    functools.partial(self._try, one),
                    name="invite",
                    deadline=TRY_DEADLINE,
                    then=Tried,
                    failed=functools.partial(NotTried, one),
                )
        rest = [effect for effect in effects if not isinstance(effect, Invite)]
        if rest:
            write = functools.partial(self._write, rest)
            self.ctx.effect(write, name="write", deadline=WRITE_DEADLINE, then=lambda _: Written(), failed=NotWritten)
        else:
            self.ctx.after(INTERVAL, Look())

    async def _try(self, invited: Invited) -> Invited:
        try:
            outcome = await self._inviting.invite(invited, self._office.term())
            # Asked again: it may have ended while the host was waited for.
            await self._store.tried(invited, outcome, self._office.term())
        except Fenced as fenced:
            self._office.doubt(str(fenced))
            raise
        self._tell(invited, outcome)
        return invited

    def _tell(self, invited: Invited, outcome: Outcome) -> None:
        if outcome.accepted:
            self.ctx.log.info("a host was invited and has joined", host=invited.hostname, address=invited.address)
        elif outcome.final or outcome.reason != invited.reason:
            # Once for each reason: a host that is off is tried many times.
            self.ctx.log.warning("a host does not join yet", host=invited.hostname, reason=outcome.reason)

    async def _write(self, effects: Sequence[GiveUp | Finish]) -> None:
        try:
            for effect in effects:
                match effect:
                    case GiveUp(invited, reason):
                        await self._store.give_up(invited, reason, self._office.term())
                        self.ctx.log.warning("a host was given up", host=invited.hostname, reason=reason)
                    case Finish(invited):
                        await self._store.finish(invited, self._office.term())
        except Fenced as fenced:
            self._office.doubt(str(fenced))
            raise
