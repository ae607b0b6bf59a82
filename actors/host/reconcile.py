"""What differs between the placements that the database gives this host and what runs here. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from uuid import UUID

from actors.model.records import Placement
from actors.model.states import PlacementState
from actors.vm.messages import Leftover


@dataclass(frozen=True, slots=True)
class Child:
    """A virtual machine that has an actor, and what it was told: a stop (seconds, force), paused or not, snapshots."""

    told: tuple[float, bool] | None = None
    disowned: bool = False
    paused: bool = False
    snapshots: frozenset[UUID] = frozenset()


@dataclass(frozen=True, slots=True)
class Decisions:
    """What to do. What is not ``start``, ``destroy`` or ``orphans`` (left alone and told) is for children.

    ``pause`` says who is to be paused or not, ``snapshot`` which snapshot is to be taken of whom.
    """

    start: tuple[Placement, ...] = ()
    stop: tuple[tuple[UUID, float, bool], ...] = ()
    resync: tuple[Placement, ...] = ()
    retry: tuple[UUID, ...] = ()
    pause: tuple[tuple[UUID, bool], ...] = ()
    snapshot: tuple[tuple[UUID, UUID], ...] = ()
    destroy: tuple[Leftover, ...] = ()
    orphans: tuple[Leftover, ...] = ()


def unknown(placements: Collection[Placement], children: Collection[UUID], found: Collection[Leftover]) -> set[UUID]:
    """Return what is here and not among ``placements``: whether it was removed has to be asked."""
    listed = {placement.id for placement in placements}
    return ({leftover.placement_id for leftover in found} | set(children)) - listed


def decide(
    placements: Collection[Placement],
    children: Mapping[UUID, Child],
    found: Collection[Leftover],
    tombstones: Collection[UUID],
    cluster_id: str,
) -> Decisions:
    """Return what to do so that what runs here becomes what the database wants.

    Absence from the database alone destroys nothing: it may be the wrong database, or an old one restored. Only what
    it says was removed, for the cluster that started it, is.
    """
    listed = {placement.id: placement for placement in placements}
    start = tuple(placement for placement in placements if placement.id not in children)
    stop = []
    for identifier, child in children.items():
        placement = listed.get(identifier)
        if placement is not None and not placement.wanted:
            wanted = (placement.stop_timeout, placement.force)
        elif placement is None and identifier in tombstones:
            wanted = (10.0, False)
        else:
            continue
        if child.told != wanted:
            stop.append((identifier, *wanted))
    resync = tuple(listed[key] for key, child in children.items() if child.disowned and key in listed)
    retry = tuple(
        key
        for key in children
        if key in listed
        and listed[key].wanted
        and listed[key].state is PlacementState.WAITING
        and listed[key].next_try_at is None
    )
    alive = [(key, child, listed[key]) for key, child in children.items() if key in listed and listed[key].wanted]
    pause = tuple((key, placement.paused) for key, child, placement in alive if child.paused is not placement.paused)
    snapshot = tuple(
        (key, order) for key, child, placement in alive for order in placement.snapshots if order not in child.snapshots
    )
    destroy: list[Leftover] = []
    orphans: list[Leftover] = []
    for leftover in found:
        if leftover.placement_id in listed or leftover.placement_id in children:
            continue
        # Of what was never started only the id tells whose it is, and a database that knows that removed it.
        removed = leftover.placement_id in tombstones and leftover.cluster_id in (cluster_id, None)
        (destroy if removed else orphans).append(leftover)
    return Decisions(
        start=start,
        stop=tuple(stop),
        resync=resync,
        retry=retry,
        pause=pause,
        snapshot=snapshot,
        destroy=tuple(destroy),
        orphans=tuple(orphans),
    )
