"""Orders and commands to test with."""

from __future__ import annotations

from uuid import UUID

from actors.commands.messages import Command, CommandKind
from actors.commands.store import Order

EPOCH = 7


def order(
    placement: int = 1, node: int = 1, kind: CommandKind = CommandKind.CREATE, generation: int = 1, **more: object
) -> Order:
    """An order for a placement of the instance of that number."""
    return Order(kind, UUID(int=100 + placement), UUID(int=placement), UUID(int=1000 + node), generation, **more)  # type: ignore[arg-type]


def command(
    kind: CommandKind = CommandKind.CREATE,
    generation: int = 1,
    epoch: int = EPOCH,
    *,
    instance: int = 1,
    node: int = 1,
    deadline: float = 5.0,
) -> Command:
    """A command for a placement of the instance of that number."""
    placement = UUID(int=instance << 32 | generation & 0xFF)
    return Command(kind, UUID(int=instance), placement, UUID(int=node), generation, epoch, deadline)
