"""`zeitwork.store.commands` in memory."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from actors.commands.messages import CommandKind
from actors.commands.store import Note, Order
from actors.model.states import InstanceDesired, NodeState, PlacementState
from runtime.lease import Term
from tests.simulation.store.database import Transaction
from tests.simulation.store.election import fence
from tests.simulation.store.node_rows import get_node
from tests.simulation.store.units import Units
from zeitwork.store.commands import event_of


class Commands:
    """What hosts have yet to carry out."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def outstanding(self, own: UUID, term: Term, limit: int) -> tuple[Order, ...]:
        """Return up to ``limit`` orders for all hosts but ``own``, those for hosts that are down last."""

        def unit(tx: Transaction) -> tuple[Order, ...]:
            fence(tx, term)
            orders = [order for order in _orders(tx) if order.node_id != own]
            return tuple(sorted(orders, key=lambda order: (order.away, order.placement_id))[:limit])

        return await self._units.run(unit, name="commands.outstanding")

    async def record(self, notes: Sequence[Note], term: Term) -> None:
        """Write steps into the logs of their instances."""

        def unit(tx: Transaction) -> None:
            fence(tx, term)
            for note in notes:
                tx.record("dispatcher", *event_of(note, term))

        await self._units.run(unit, name="commands.record")


def _orders(tx: Transaction) -> list[Order]:
    orders = []
    for row in tx.database.placements:
        instance, node = tx.database.instances.get(row.instance_id), get_node(tx, row.node_id)
        assert instance is not None
        if not row.live or node.state is NodeState.TERMINATED or (node.state is NodeState.DOWN and row.lost):
            continue
        running = instance.desired is InstanceDesired.RUNNING
        away = node.state not in (NodeState.READY, NodeState.DRAINING)
        if running and (row.generation == instance.generation or row.kept):
            if row.state is PlacementState.ASSIGNED:
                orders.append(Order(CommandKind.CREATE, instance.id, row.id, row.node_id, row.generation, away=away))
            continue
        kind = CommandKind.DELETE if instance.desired is InstanceDesired.TERMINATED else CommandKind.STOP
        wait = instance.stop_timeout if instance.stop_wait is None else instance.stop_wait
        orders.append(Order(kind, instance.id, row.id, row.node_id, row.generation, instance.stop_force, wait, away))
    return orders
