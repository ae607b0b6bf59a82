"""`zeitwork.store.presence` in memory: `PresenceStore` and `WatchStore` of `actors.registrar.store`."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from actors.model.states import NodeState
from actors.registrar.store import Beat
from runtime.lease import Term
from tests.simulation.store import tables
from tests.simulation.store.bugs import Bug
from tests.simulation.store.database import Transaction
from tests.simulation.store.election import fence
from tests.simulation.store.instance_rows import announce_desired
from tests.simulation.store.node_rows import hasten, write_state
from tests.simulation.store.succession import settle
from tests.simulation.store.units import Units


class Presence:
    """Signs of life."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def heartbeat(self, node_id: UUID, generation: int) -> bool:
        """Write that the process of this generation lives; False when another generation has registered since."""

        def unit(tx: Transaction) -> tuple[bool, bool]:
            node = tx.database.nodes.get(node_id)
            raised = Bug.RAISED_BY_BEAT in tx.bugs
            if node is None or node.generation != generation or (node.state is NodeState.TERMINATED and not raised):
                return False, False
            if node.state is NodeState.TERMINATED:
                node = replace(node, state=NodeState.READY)
            tx.database.nodes.put(node_id, replace(node, last_seen_at=tx.now))
            return True, node.state is NodeState.DOWN or bool(_lost_here(tx, node_id))

        ours, away = await self._units.run(unit, name="presence.heartbeat")
        if away:
            await self._units.run(lambda tx: _come_back(tx, node_id, generation), name="presence.return")
        return ours

    async def beats(self) -> tuple[Beat, ...]:
        """Return the last sign of life of each node that has registered and is not terminated.

        Of those that are down only those whose replacement is still to come.
        """

        def unit(tx: Transaction) -> tuple[Beat, ...]:
            return tuple(
                Beat(
                    node_id=node.id,
                    hostname=node.hostname,
                    state=node.state,
                    generation=node.generation,
                    seen=node.last_seen_at,
                    age=tx.now - node.last_seen_at,
                    replace_in=node.replace_after - tx.now if down and node.replace_after is not None else None,
                )
                for node in sorted(tx.database.nodes, key=lambda node: node.id)
                if node.generation > 0
                and node.last_seen_at is not None
                and node.state is not NodeState.TERMINATED
                and not (
                    (down := node.state is NodeState.DOWN)
                    and (node.replace_after is None or node.replace_after <= tx.now)
                )
            )

        return await self._units.read(unit, name="presence.beats")

    async def mark_down(self, beat: Beat, reason: str, term: Term, *, grace: float = 0.0) -> bool:
        """Write that a host is dead. False when it has given a sign of life since, or was started anew."""

        def unit(tx: Transaction) -> bool:
            fence(tx, term)
            node = tx.database.nodes.get(beat.node_id)
            if node is None or node.state is NodeState.TERMINATED:
                return False
            if (node.generation, node.last_seen_at) != (beat.generation, beat.seen):
                return False
            if node.state is NodeState.DOWN:
                return hasten(tx, node, reason, "registrar", grace)
            write_state(tx, node, NodeState.DOWN, reason, "registrar", grace=grace)
            return True

        return await self._units.run(unit, name="presence.mark_down")


def _lost_here(tx: Transaction, node_id: UUID) -> list[tables.Placement]:
    """Return the lost placements of a node that still count: what somebody decided to do without stays lost."""
    found = []
    for row in tx.database.placements:
        instance = tx.database.instances.get(row.instance_id)
        assert instance is not None
        if (
            row.node_id == node_id
            and row.live
            and row.lost
            and (row.exclusive or row.generation >= instance.generation)
        ):
            found.append(row)
    return sorted(found, key=lambda row: row.id)


def _come_back(tx: Transaction, node_id: UUID, generation: int) -> None:
    """Undo what was decided about a host because it was found dead, as far as it still can be."""
    node = tx.database.nodes.get(node_id)
    if node is None or node.generation != generation or node.state is NodeState.TERMINATED:
        return
    if node.state is NodeState.DOWN:
        write_state(tx, node, NodeState.READY, "", "host")
    for row in _lost_here(tx, node_id):
        tx.database.placements.put(row.id, replace(row, lost_at=None))
        data = {"instance_id": str(row.instance_id), "node_id": str(node_id)}
        tx.record("host", "placement.found", "placement", row.id, data)
        settle(tx, row.instance_id, "", who="host")
        announce_desired(tx, row.instance_id)
    tx.announce("zw_nodes", node_id)
