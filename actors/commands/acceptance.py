"""Whether a command is to be heeded, by what its host has seen before. Pure but for the memory that it keeps.

It spares a host needless work and says why; it is not what keeps late commands from doing harm: whatever is done is
decided by what Postgres says at that moment.
"""

from __future__ import annotations

from collections import OrderedDict
from uuid import UUID

from actors.commands.messages import Command, CommandKind
from actors.model.errors import Conflict, InvalidInput
from runtime.links.errors import StaleEpoch

#: No epoch and no generation is higher: what a host keeps for good must fit where it reports it.
HIGHEST = 2**62
#: Instances of which the newest generation is remembered.
MOST_REMEMBERED = 10_000


class Memory:
    """What one host has been told in the present epoch: the highest generation of each instance, and which has ended.

    Of another epoch nothing is remembered: a leader on a restored backup may count generations from an earlier one.
    """

    def __init__(self, node_id: UUID, epoch: int = 0) -> None:
        self.epoch = epoch
        self._node_id = node_id
        self._seen: OrderedDict[UUID, tuple[int, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def learn(self, epoch: int) -> None:
        """Take note that this host has heard of an epoch, by a command or otherwise."""
        if epoch > self.epoch:
            self.epoch = epoch
            self._seen.clear()

    def accept(self, command: Command, left: float) -> bool:
        """Return whether to heed a command; False when a newer one was accepted. ``left`` in seconds.

        Raises `StaleEpoch`, `InvalidInput`, and `Conflict` for one that came too late or is meant for another host.
        """
        for field in ("epoch", "generation"):
            if not 0 < getattr(command, field) <= HIGHEST:
                raise InvalidInput(f"there is no such {field}", field=field)
        if command.epoch < self.epoch:
            raise StaleEpoch(
                f"a command of the leader with epoch {command.epoch}; epoch {self.epoch} has begun", field="epoch"
            )
        if command.node_id != self._node_id:
            raise Conflict(f"a command for host {command.node_id}", field="node_id", code="wrong-host")
        if not left > 0:
            raise Conflict("the command came too late", field="deadline", code="expired")
        self.learn(command.epoch)
        newest, ended = self._seen.get(command.instance_id, (0, 0))
        creates = command.kind is CommandKind.CREATE
        if creates and (command.generation < newest or command.generation <= ended):
            return False
        self._seen[command.instance_id] = (
            max(newest, command.generation),
            ended if creates else max(ended, command.generation),
        )
        self._seen.move_to_end(command.instance_id)
        while len(self._seen) > MOST_REMEMBERED:
            self._seen.popitem(last=False)
        return True
