"""Actors on all hosts that ask each other, so that what links promise of requests and answers can be judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from runtime import Actor, Message
from runtime.errors import ActorError
from runtime.links.errors import Expired, Unreachable
from runtime.links.registry import Registry
from runtime.message import Request
from runtime.ref import Ref

if TYPE_CHECKING:
    from tests.simulation.host import SimulatedHost
    from tests.simulation.judge import Judge
    from tests.simulation.reach import ProcessLife

NAME = "echo"
#: Seconds between two rounds, how long an answer is waited for, and the longest time that one takes.
EVERY, PATIENCE, LONGEST = 5.0, 3.0, 2.0
#: Requests to one host at once: their answers come in another order.
TOGETHER = 2


@dataclass(frozen=True, slots=True)
class Heard:
    """Who has answered what."""

    host: UUID
    token: str


@dataclass(frozen=True, slots=True)
class Echo(Request[Heard]):
    """Say this again after so many seconds."""

    token: str
    after: float


@dataclass(frozen=True, slots=True)
class _Round(Message):
    """It is time to ask again."""


@dataclass(frozen=True, slots=True)
class _Asked(Message):
    """A request has its end."""


def register(registry: Registry) -> None:
    """Enter what travels."""
    registry.add(Echo, "simulation.echo", to=[NAME])


class Echoes(Actor):
    """``others`` tells whom there is to ask; ``reach`` makes a ref to this actor of another host."""

    def __init__(
        self,
        judge: Judge,
        host: SimulatedHost,
        life: ProcessLife,
        own: UUID,
        others: Callable[[], list[UUID]],
        reach: Callable[[UUID], Ref],
    ) -> None:
        self._judge = judge
        self._host = host
        self._life = life
        self._own = own
        self._others = others
        self._reach = reach
        self._count = 0

    async def init(self) -> None:
        """Begin to ask."""
        self.ctx.every(EVERY, _Round())

    async def receive(self, message: Message) -> None:
        """Ask, and answer."""
        match message:
            case _Round():
                others = self._others()
                if others:
                    self._ask(self.ctx.env.random.choice(others))
            case Echo(token, after):
                self._serve(token, after)
            case _Asked():
                pass

    def _serve(self, token: str, after: float) -> None:
        slot = self.ctx.reply_slot()
        if not self._life.dead:
            self._judge.served(self._host, token)

        def answer(_: object) -> _Asked:
            if slot.open:
                slot.reply(Heard(self._own, token))
            return _Asked()

        end = self.ctx.env.monotonic() + after
        self.ctx.effect(self.ctx.env.sleep_until, end, name="think", deadline=None, then=answer)

    def _ask(self, other: UUID) -> None:
        chance = self.ctx.env.random
        for _ in range(TOGETHER):
            self._count += 1
            token = f"{self._host.name}.{self._host.lives}.{self._count}"
            after = chance.uniform(0.0, LONGEST)
            self.ctx.effect(
                self._exchange, other, token, after, name="ask", deadline=PATIENCE + 5.0, then=lambda _: _Asked()
            )

    async def _exchange(self, other: UUID, token: str, after: float) -> None:
        try:
            heard = await self._reach(other).ask(Echo(token, after), timeout=PATIENCE)
        except (Unreachable, Expired) as error:
            if not self._life.dead and (isinstance(error, Expired) or not error.sent):
                self._judge.never_sent(self._host, token)
        except ActorError:
            pass
        else:
            if not self._life.dead:
                self._judge.answered(self._host, other, token, heard)
