"""The scheduler's decision as a pure function of one look at the nodes and of what is pending."""

from __future__ import annotations

from collections.abc import Container, Iterable
from uuid import UUID

from actors.model.records import PendingInstance
from actors.model.scheduling import Requirements, Strategy
from actors.model.states import ImageStatus
from actors.scheduler.feasibility import obstacle
from actors.scheduler.fleet import IMAGELESS, Fleet, Room
from actors.scheduler.kind import Holders, Kind
from actors.scheduler.queue import STARVED, in_turn
from actors.scheduler.reasons import NO_PIN, same, sentence, shortage
from actors.scheduler.reserve import Reservations
from actors.scheduler.sample import Tally
from actors.scheduler.store import Assignment, NodeView, Pending, Plan, Postponed

#: So many hosts are looked at for reasons in one evaluation; each reason that was not found before looks at all. As
#: many again are for instances that have none yet, so that in the end each has one.
LOOKS = 500_000
#: So many instances that have a reason get another one in one evaluation. Reasons hold the moment's figures: where many
#: wait, each placement would have all of theirs written anew.
REWRITES = 1000


def evaluate(pending: Pending, nodes: Iterable[NodeView]) -> Plan:
    """Assign every pending instance of one page that fits, and say of each other one why not."""
    planner = Planner(nodes)
    planner.learn(pending)
    return planner.plan(in_turn(pending.instances))


class Planner:
    """Places instances on one view of the nodes, one after the other; what it gives away is taken from that view.

    The same input in the same order gives the same plan. ``avoid`` names nodes that refused something lately: they are
    taken when no other one fits.
    """

    def __init__(self, nodes: Iterable[NodeView], avoid: Container[UUID] = ()) -> None:
        self._fleet = Fleet(nodes, avoid)
        self._kinds: dict[tuple[Requirements, UUID | None, UUID | None], Kind] = {}
        self._images: dict[UUID, frozenset[UUID]] = {}
        self._holders: dict[UUID, Holders] = {}
        self._counts: dict[UUID | None, Tally] = {}
        self._reservations = Reservations(self._fleet.size)
        self._looks = 0
        self._rewritten = 0

    def learn(self, pending: Pending) -> None:
        """Take note of where a page's images and groups are. To be done before anything of it is planned."""
        by_id = self._fleet.by_id
        self._images.update(pending.images)
        for group, placed in pending.groups.items():
            if group in self._counts:
                continue  # by an earlier page, and what was planned since is counted there
            counts = self._counts[group] = Tally()
            for node, count in placed.items():
                if node in by_id:
                    counts.add(by_id[node], count)

    def plan(self, instances: Iterable[PendingInstance]) -> Plan:
        """Decide about these instances, in this order (`in_turn`).

        One that was postponed before and would say the same again is not in the plan.
        """
        assignments: list[Assignment] = []
        postponed: list[Postponed] = []
        for instance in instances:
            if instance.image_status is ImageStatus.READY:
                room = self._choose(instance)
                if room is not None:
                    assignments.append(Assignment(instance.id, instance.generation, room.node.id))
                    continue
                reason = self._why(instance)
                if instance.waiting > STARVED:
                    self._reserve(instance)
                if reason is None:
                    continue
                refusal = Postponed(instance.id, instance.generation, reason)
            else:
                refusal = _image_obstacle(instance)
            if self._to_be_told(instance, refusal):
                postponed.append(refusal)
        return Plan(tuple(assignments), tuple(postponed))

    def take(self, instance: PendingInstance) -> UUID | None:
        """Take the room for this instance and return its node, or None when it fits nowhere now."""
        room = self._choose(instance)
        return None if room is None else room.node.id

    def why(self, instance: PendingInstance) -> str:
        """Return why an instance that was just refused fits nowhere."""
        if instance.node_id is not None:
            return self._why_not_there(instance, instance.node_id)
        return self._kind(instance).reason(instance.resources.vcpu, instance.resources.memory)

    def _kind(self, instance: PendingInstance) -> Kind:
        uploaded = None if instance.image_nodes is None else instance.image_id
        key = (instance.requirements, instance.leaves, uploaded)
        kind = self._kinds.get(key)
        if kind is None:
            kind = Kind(self._fleet, instance.requirements, instance.leaves, instance.image_nodes)
            self._kinds[key] = kind
        return kind

    def _choose(self, instance: PendingInstance) -> Room | None:
        """Return a host that fits, with the room on it taken."""
        vcpu, memory = instance.resources.vcpu, instance.resources.memory
        group = instance.group_id
        counts = self._counts.get(group)
        if counts is None:
            counts = self._counts[group] = Tally()
        if instance.node_id is not None:
            room = self._pinned(instance, instance.node_id)
            if room is None or not room.fits(vcpu, memory):
                return None
        else:
            strategy = instance.requirements.strategy
            if strategy is None:
                strategy = Strategy.BINPACK if group is None else Strategy.SPREAD
            image = instance.image_id
            found = self._kind(instance).choose(vcpu, memory, strategy, image, self._having(image), counts)
            if found is None:
                return None
            room = found
        room.take(vcpu, memory)
        counts.add(room)
        return room

    def _having(self, image: UUID) -> Holders:
        """Return the hosts that have an image."""
        found = self._holders.get(image)
        if found is None:
            by_id = self._fleet.by_id
            rooms = [by_id[node] for node in self._images.get(image, ()) if node in by_id]
            rooms.sort(key=lambda room: room.id)
            found = self._holders[image] = Holders(rooms, frozenset(room.id for room in rooms))
        return found

    def _pinned(self, instance: PendingInstance, node: UUID) -> Room | None:
        """Return the node that it is pinned to, None when that is not here or not what it asks for."""
        room = self._fleet.by_id.get(node)
        return room if room is not None and _obstacle(room, instance) is None else None

    def _reserve(self, instance: PendingInstance) -> None:
        """Keep a host for an instance that has waited for too long."""
        vcpu, memory = instance.resources.vcpu, instance.resources.memory
        if instance.node_id is None:
            self._reservations.one_of(self._kind(instance).rooms, vcpu, memory)
        elif (room := self._pinned(instance, instance.node_id)) is not None:
            self._reservations.this(room, vcpu, memory)

    def _why(self, instance: PendingInstance) -> str | None:
        """Return the reason, None when there were too many already to find out another one now."""
        if instance.node_id is None:
            vcpu, memory = instance.resources.vcpu, instance.resources.memory
            if not self._kind(instance).explained(vcpu, memory):
                if self._looks >= (LOOKS if instance.reason else 2 * LOOKS):
                    return None
                self._looks += self._fleet.size
        return self.why(instance)

    def _to_be_told(self, instance: PendingInstance, refusal: Postponed) -> bool:
        if refusal.final or not instance.reason:
            return True
        if self._rewritten >= REWRITES or same(instance.reason, refusal.reason):
            return False
        self._rewritten += 1
        return True

    def _why_not_there(self, instance: PendingInstance, node: UUID) -> str:
        room = self._fleet.by_id.get(node)
        if room is None:
            return NO_PIN
        found = _obstacle(room, instance)
        if found is not None:
            return sentence({found: 1})
        return sentence(shortage((room,), instance.resources.vcpu, instance.resources.memory))


def _obstacle(room: Room, instance: PendingInstance) -> str | None:
    if instance.image_nodes is not None and room.node.id not in instance.image_nodes:
        return IMAGELESS
    return obstacle(room.node, instance.requirements)


def _image_obstacle(instance: PendingInstance) -> Postponed:
    if instance.image_status is ImageStatus.FAILED:
        reason = f"its image failed: {instance.image_error or 'no reason was recorded'}"
        return Postponed(instance.id, instance.generation, reason, final=True)
    return Postponed(instance.id, instance.generation, "waiting for its image")
