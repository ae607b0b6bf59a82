"""What becomes of placements whose host is dead or is to be emptied, as a pure function of what is free elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from actors.model.states import InstanceDesired, NodeState
from actors.scheduler.plan import Planner
from actors.scheduler.queue import turn
from actors.scheduler.store import Displaced, Move, Moved


@dataclass(frozen=True, slots=True)
class Staying:
    """An instance that stays on a host that is to be emptied, and why."""

    instance_id: UUID
    node_id: UUID
    reason: str


@dataclass(frozen=True, slots=True)
class Relocation:
    """Decisions about displaced placements. Those who stay are decided about again each time."""

    moves: tuple[Moved, ...] = ()
    staying: tuple[Staying, ...] = ()


def relocate(displaced: Iterable[Displaced], planner: Planner) -> Relocation:
    """Decide about each that was not decided about before.

    What has to be stopped before it can be placed takes its room from ``planner`` now, so that nothing else gets it
    in this evaluation.
    """
    moves: list[Moved] = []
    staying: list[Staying] = []
    for one in sorted(displaced, key=lambda one: turn(one.instance)):
        if one.instance.desired is not InstanceDesired.RUNNING:
            continue
        if one.lost and not _set_free(one):
            continue
        if one.node_state is NodeState.DOWN:
            moves.append(_moved(one, *_off_a_dead_host(one)))
            continue
        if one.node_state is NodeState.READY:
            moves.append(_moved(one, Move.STAY, ""))
            continue
        decision = _off_a_draining_host(one, planner)
        if isinstance(decision, str):
            staying.append(Staying(one.instance.id, one.node_id, decision))
        else:
            moves.append(_moved(one, *decision))
    return Relocation(tuple(moves), tuple(staying))


def _set_free(one: Displaced) -> bool:
    """Say whether one that waited for its host need not any more: what was uploaded is on another host now, too."""
    uploaded = one.instance.image_nodes is not None
    return uploaded and one.node_state is NodeState.DOWN and not one.bound and not one.singleton


def _off_a_dead_host(one: Displaced) -> tuple[Move, str]:
    down = f"host {one.hostname} is down"
    if one.bound:
        return Move.UNKNOWN, f"{down} and it can run only there ({one.bound}): it goes on when the host is back"
    if one.singleton:
        name = one.name or one.instance.id
        return Move.UNKNOWN, f"{down} and may still run it: `zeitwork replace {name} --force` places it elsewhere"
    return Move.REPLACE, f"{down}: it is placed elsewhere"


def _off_a_draining_host(one: Displaced, planner: Planner) -> tuple[Move, str] | str:
    """Return the move, or why it stays."""
    drained = f"{one.hostname} is being drained"
    if one.bound:
        return f"{drained}, but it can run only there ({one.bound})"
    if not one.singleton:
        # Wanted elsewhere also when nothing fits: so it waits there in turn, and serves here meanwhile.
        return Move.HAND_OVER, f"moves off {one.hostname} when there is room"
    if planner.take(one.instance) is None:
        return f"{drained}: {planner.why(one.instance)}"
    return Move.STOP_FIRST, f"{drained}: it is stopped, then placed elsewhere"


def _moved(one: Displaced, move: Move, reason: str) -> Moved:
    return Moved(one.instance.id, one.instance.generation, one.placement_id, move, reason)
