"""Takes the leader's commands on one host. It wakes the host's actor, which reads Postgres and acts by that alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from uuid import UUID

from actors.commands.acceptance import Memory
from actors.commands.messages import NAME, Command, CommandKind, Taken
from actors.host.messages import Attend
from actors.model.errors import Unavailable
from runtime import Actor, Message, Ref, Reply, Spec, TooManyEffects
from runtime.lease import EpochMemory

#: Commands in work at once and those that wait, at most. What is refused comes again.
MOST_IN_WORK, MOST_WAITING = 256, 512


@dataclass(frozen=True, slots=True)
class _Attended(Message):
    slot: Reply
    command: Command
    state: str | None


@dataclass(frozen=True, slots=True)
class _Failed(Message):
    slot: Reply
    error: Exception


class Receiver(Actor):
    """Refuses leaders whose time is over, and keeps the highest epoch that it was told on this host's disk.

    ``host`` is the actor that keeps this host's placements.
    """

    def __init__(self, node_id: UUID, epochs: EpochMemory, host: Ref) -> None:
        self._epochs = epochs
        self._host = host
        self._memory = Memory(node_id)
        self._kept = 0

    async def init(self) -> None:
        """Learn the highest epoch that this host has seen."""
        try:
            self._kept = await self._epochs.load()
        except OSError as error:
            # As the elector: it matters only after a restored backup, and other hosts remember, too.
            self.ctx.log.error("the highest epoch seen is not known", error=str(error))
        self._memory.epoch = self._kept

    async def receive(self, message: Message) -> None:
        """Take a command or refuse it."""
        match message:
            case Command():
                self._take(message)
            case _Attended(slot=slot, command=command, state=state):
                self._kept = max(self._kept, command.epoch)
                if slot.open:
                    slot.reply(Taken(command.placement_id, command.generation, command.epoch, state))
            case _Failed(slot=slot, error=error):
                self.ctx.log.warning("command not carried out", error=str(error))
                if slot.open:
                    slot.fail(error)
            case _:
                self.ctx.log.warning("unknown message", message=type(message).__name__)

    def _take(self, command: Command) -> None:
        until, left = self.ctx.deadline, command.deadline
        if until is not None:
            left = min(left, until - self.ctx.env.monotonic())
        # Mostly it is not a command by which a host learns that another leader has begun, but the lease itself.
        self._memory.learn(self._epochs.highest)
        if not self._memory.accept(command, left):
            self.ctx.reply(Taken(command.placement_id, command.generation, command.epoch, superseded=True))
            return
        slot = self.ctx.reply_slot()
        try:
            self.ctx.effect(
                partial(self._attend, command, left),
                name=f"{command.kind} {command.placement_id}",
                deadline=left,
                then=partial(_Attended, slot, command),
                failed=partial(_Failed, slot),
            )
        except TooManyEffects:
            slot.fail(Unavailable("this host has too many commands in work", code="busy"))

    async def _attend(self, command: Command, left: float) -> str | None:
        if command.epoch > self._kept:
            # Before anything is done for that leader.
            try:
                await self._epochs.keep(command.epoch)
            except OSError as error:
                raise Unavailable(f"the leader's epoch can't be kept on this host: {error}") from error
        starts = command.kind is CommandKind.CREATE
        return await self._host.ask(Attend(command.placement_id, starts=starts), timeout=left)


def receiver(node_id: UUID, epochs: EpochMemory, host: Ref) -> Spec:
    """Return the spec of a host's receiver."""
    return Spec(NAME, lambda: Receiver(node_id, epochs, host), mailbox=MOST_WAITING, effects=MOST_IN_WORK)
