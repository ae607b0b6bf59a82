"""What must always be so in a world, each rule in one function, and what must be so once all is whole again.

The judge reads tables and machines themselves. It uses none of the code that it judges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING
from uuid import UUID

import trio

from actors.commands.messages import Command
from actors.model.resources import Capacity
from actors.model.states import NodeDesired, NodeState, PlacementState
from runtime.lease import Term
from runtime.membership.events import Notice, Superseded
from tests.simulation.belonging import BELONGING_RULES, Removals, is_removed
from tests.simulation.between import (
    NOTICE_RULES,
    answers_are_those_of_their_requests,
    late_commands_are_refused,
    requests_are_carried_out_once,
    what_was_not_sent,
    who_answers_others_is_given_time,
    why_late,
)
from tests.simulation.echo import Heard
from tests.simulation.rest import END_RULES
from tests.simulation.store import tables

if TYPE_CHECKING:
    from tests.simulation.host import SimulatedHost
    from tests.simulation.reach import ProcessLife
    from tests.simulation.world import World


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that was broken, when (simulated seconds), and how."""

    at: float
    rule: str
    what: str

    def __str__(self) -> str:
        return f"{self.at:.3f} s: {self.rule}: {self.what}"


@dataclass
class Judge:
    """Looks after every commit and every start of a machine."""

    world: World
    violations: list[Violation] = field(default_factory=list)
    #: How often each rule was looked at.
    looks: dict[str, int] = field(default_factory=dict)
    #: Set with the first violation: nothing that follows is worth the time.
    found: trio.Event = field(default_factory=trio.Event)
    boots: dict[int, UUID] = field(default_factory=dict)
    placed: int = 0
    looked: int = 0
    wanted: dict[UUID, int] = field(default_factory=dict)
    addresses: dict[IPv4Address | IPv6Address, tables.Address] = field(default_factory=dict)
    removed: dict[UUID, None] = field(default_factory=dict)
    #: Placements that were, at some time, kept until their successor runs, or on a host that was dead.
    passable: dict[UUID, None] = field(default_factory=dict)
    leader_before: tables.Leadership | None = None
    #: Requests between hosts that were carried out, and those that never will be.
    carried_out: dict[str, str] = field(default_factory=dict)
    unsent: dict[str, None] = field(default_factory=dict)
    #: The latest death, as generation and incarnation, that each life of a host was told of each other one.
    #: When what runs on each node is replaced.
    replacing: dict[UUID, float | None] = field(default_factory=dict)
    #: What each life of a host has heeded: the epoch, and of each instance the newest generation and the one ended.
    heeded: dict[tuple[str, int], tuple[int, dict[UUID, tuple[int, int]]]] = field(default_factory=dict)
    deaths: dict[tuple[str, int, UUID], tuple[int, int]] = field(default_factory=dict)
    removals: Removals = field(default_factory=Removals)

    def complain(self, rule: str, what: str) -> None:
        """Note that a rule was broken."""
        self.violations.append(Violation(trio.current_time(), rule, what))
        self.world.trace("judge", f"{rule}: {what}")
        self.found.set()

    def committed(self, name: str, term: Term | None) -> None:
        """Look at what a transaction has made."""
        for rule in COMMIT_RULES:
            self._apply(rule, rule(self, term))
        self.leader_before = self.world.database.leadership.get(True)

    def spawned(self, host: SimulatedHost, placement_id: UUID) -> None:
        """Look at a machine that was just started."""
        for rule in SPAWN_RULES:
            self._apply(rule, rule(self, host, placement_id))

    def taken_over(self, host: SimulatedHost, placement_id: UUID, rightly: bool) -> None:
        """Look at a machine that a new process of its host takes over."""
        self._apply(machines_are_taken_over_rightly, machines_are_taken_over_rightly(host, placement_id, rightly))

    def heard(self, host: SimulatedHost, life: ProcessLife, notice: Notice | Superseded) -> None:
        """Look at what the membership of a host tells."""
        what = f"superseded by {notice.generation}" if isinstance(notice, Superseded) else _told(self.world, notice)
        self.world.trace(host.name, f"membership: {what}")
        for rule in NOTICE_RULES:
            self._apply(rule, rule(self, host, life, notice))

    def served(self, host: SimulatedHost, token: str) -> None:
        """Look at a request that a host is about to answer."""
        self._apply(requests_are_carried_out_once, requests_are_carried_out_once(self, host, token))

    def never_sent(self, host: SimulatedHost, token: str) -> None:
        """Look at a request whose asker was told that it was not carried out and will not be."""
        self._apply(requests_are_carried_out_once, what_was_not_sent(self, host, token))

    def answered(self, host: SimulatedHost, asked: UUID, token: str, heard: Heard) -> None:
        """Look at an answer."""
        rule = answers_are_those_of_their_requests
        self._apply(rule, rule(self, host, asked, token, heard))

    def is_late(self, host: SimulatedHost, command: Command) -> str:
        """Return why a command that has come to a host must not be heeded, "" if it may."""
        return why_late(self, host, command)

    def commanded(self, host: SimulatedHost, life: int, command: Command, late: str) -> None:
        """Look at a command that a host has heeded; ``late`` is what `is_late` said as it came."""
        self.world.trace(host.name, f"takes {command.kind} of {command.placement_id} in epoch {command.epoch}")
        rule = late_commands_are_refused
        self._apply(rule, rule(self, host, life, command, late))

    def fits_nowhere(self, instance: tables.Instance, leaving: UUID | None = None) -> bool:
        """Say whether no host that takes new work, ``leaving`` aside, has room for an instance."""
        database, asked = self.world.database, instance.resources
        for node in database.nodes:
            if node.capacity is None or node.state is not NodeState.READY or node.desired is not NodeDesired.READY:
                continue
            if node.id == leaving or instance.pinned_node_id not in (None, node.id):
                continue
            there = [row for row in database.placements if row.node_id == node.id and row.live]
            vcpu = node.capacity.vcpu - sum(row.resources.vcpu for row in there)
            memory = node.capacity.memory - sum(row.resources.memory + row.memory_overhead for row in there)
            if asked.vcpu <= vcpu and asked.memory + node.capacity.memory_overhead <= memory:
                return False
        return True

    def at_end(self) -> list[str]:
        """Return why the world has not come to rest; nothing when it has."""
        found = []
        for rule in END_RULES:
            name = rule_name(rule)
            self.looks[name] = self.looks.get(name, 0) + 1
            found += [f"{name}: {what}" for what in rule(self)]
        return found

    def _apply(self, rule: Callable[..., object], found: Iterator[str]) -> None:
        name = rule_name(rule)
        self.looks[name] = self.looks.get(name, 0) + 1
        for what in found:
            self.complain(name, what)


def _told(world: World, notice: Notice) -> str:
    member = notice.member
    return f"{notice.kind} {world.host_name(member.host)} {member.generation}.{member.incarnation}"


def rule_name(rule: Callable[..., object]) -> str:
    """Return what people call a rule."""
    return rule.__name__.replace("_", " ")


# --- after every commit


def one_writer_in_each_epoch(judge: Judge, term: Term | None) -> Iterator[str]:
    """An epoch belongs to one process for ever, and epochs only grow."""
    row = judge.world.database.leadership.get(True)
    if row is None:
        return
    before = judge.boots.setdefault(row.epoch, row.boot)
    if before != row.boot:
        yield f"epoch {row.epoch} is {row.boot}'s and was {before}'s"
    if row.epoch < max(judge.boots):
        yield f"epoch {row.epoch} follows {max(judge.boots)}"


def no_write_of_a_term_that_is_over(judge: Judge, term: Term | None) -> Iterator[str]:
    """What a leader writes is committed within its term, by the database's clock and by the lease's row."""
    row, now = judge.world.database.leadership.get(True), judge.world.database.now()
    if term is not None and (row is None or (row.epoch, row.boot) != (term.epoch, term.boot)):
        yield f"a transaction of epoch {term.epoch} was committed in epoch {row.epoch if row else 0}"
    elif term is not None and row is not None and row.expires_at <= now:
        yield f"a transaction of epoch {term.epoch} was committed {now - row.expires_at:.3f} s after its end"


def placements_bear_the_present_epoch(judge: Judge, term: Term | None) -> Iterator[str]:
    """A new placement names the leader that decided it, and that one leads."""
    row, placements = judge.world.database.leadership.get(True), judge.world.database.placements
    if len(placements) <= judge.placed:
        judge.placed = len(placements)
        return
    for placement in tuple(placements)[judge.placed :]:
        if row is None or placement.epoch != row.epoch:
            yield f"placement {placement.id} of epoch {placement.epoch} was made in epoch {row.epoch if row else 0}"
    judge.placed = len(placements)


def no_address_twice(judge: Judge, term: Term | None) -> Iterator[str]:
    """An address belongs to one placement that lives, and rests before it is given to another."""
    database = judge.world.database
    owners: dict[IPv4Address | IPv6Address, UUID] = {}
    for placement in database.placements:
        for address in (placement.v4, placement.v6) if placement.live else ():
            if address is None:
                continue
            other = owners.setdefault(address, placement.id)
            if other != placement.id:
                yield f"{address} belongs to placements {other} and {placement.id}"
    for row in database.leases:
        before = judge.addresses.get(row.address)
        if before is row:
            continue
        judge.addresses[row.address] = row
        if before is None or before.placement_id == row.placement_id:
            continue
        if before.rest_until is None:
            yield f"{row.address} was taken from placement {before.placement_id}"
        elif row.leased_at < before.rest_until:
            yield f"{row.address} was given away {before.rest_until - row.leased_at:.1f} s before its rest was over"


def leases_are_those_of_live_placements(judge: Judge, term: Term | None) -> Iterator[str]:
    """A live placement leases its addresses, and nothing else is leased."""
    database = judge.world.database
    leased = {row.address: row.placement_id for row in database.leases if row.rest_until is None}
    for placement in database.placements:
        for address in (placement.v4, placement.v6) if placement.live else ():
            if address is not None and leased.pop(address, None) != placement.id:
                yield f"placement {placement.id} lives without its lease of {address}"
    for address, owner in leased.items():
        yield f"{address} is leased by placement {owner}, which is gone"


def no_node_is_given_more_than_it_has(judge: Judge, term: Term | None) -> Iterator[str]:
    """What placements hold on a node, monitors included, is within its capacity."""
    database = judge.world.database
    held: dict[UUID, tuple[int, int]] = {}
    for placement in database.placements:
        if placement.live:
            vcpu, memory = held.get(placement.node_id, (0, 0))
            asked = placement.resources
            held[placement.node_id] = vcpu + asked.vcpu, memory + asked.memory + placement.memory_overhead
    for node in database.nodes:
        vcpu, memory = held.get(node.id, (0, 0))
        has = node.capacity or Capacity(0, 0, 0, 0, 1.0, 1.0, 0)
        if vcpu > has.vcpu or memory > has.memory:
            yield f"{node.hostname} gave {vcpu} of {has.vcpu} vCPU and {memory} of {has.memory} MiB"


def one_placement_serves(judge: Judge, term: Term | None) -> Iterator[str]:
    """Of an instance one placement is of its newest generation and one other may serve until that one runs."""
    serving: dict[UUID, list[tables.Placement]] = {}
    generations: dict[tuple[UUID, int], UUID] = {}
    for placement in judge.world.database.placements:
        other = generations.setdefault((placement.instance_id, placement.generation), placement.id)
        if other != placement.id:
            yield f"instance {placement.instance_id} was placed twice in generation {placement.generation}"
        if placement.live and (placement.kept or placement.lost):
            judge.passable[placement.id] = None
        if placement.live:
            serving.setdefault(placement.instance_id, []).append(placement)
    for instance_id, placements in serving.items():
        if sum(1 for one in placements if one.kept) > 1:
            kept = [one.generation for one in placements if one.kept]
            yield f"instance {instance_id} has kept placements of generations {kept}"


def what_moves_serves_on(judge: Judge, term: Term | None) -> Iterator[str]:
    """When the leader wants another generation of an instance, the one before is lost, kept until that one runs, or
    must be alone. Only people may want an end without that."""
    database, before = judge.world.database, judge.wanted
    judge.wanted = {instance.id: instance.generation for instance in database.instances}
    if term is None:
        return
    for placement in database.placements:
        moved = before.get(placement.instance_id, 0) < judge.wanted[placement.instance_id]
        if not moved or placement.generation != before.get(placement.instance_id) or not placement.live:
            continue
        instance = database.instances.get(placement.instance_id)
        alone = instance is not None and instance.singleton
        serves = placement.kept or placement.lost or alone or placement.state is not PlacementState.RUNNING
        # One that had not taken over yet has nobody to serve.
        if not serves and not any(one.kept for one in database.placements if one.instance_id == placement.instance_id):
            yield f"placement {placement.id} runs and shall end before its successor does"


def nothing_is_placed_beside_what_is_in_its_way(judge: Judge, term: Term | None) -> Iterator[str]:
    """When an instance is placed, whatever else there is of it serves until that runs, or its host is dead; of a
    singleton there is nothing else, unless somebody has accepted that two may run."""
    database = judge.world.database
    for placement in tuple(database.placements)[judge.looked :]:
        instance = database.instances.get(placement.instance_id)
        alone = instance is not None and instance.singleton and not judge.world.is_forced(instance.id)
        for other in database.placements:
            if other.instance_id != placement.instance_id or other.id == placement.id or not other.live:
                continue
            if alone or not (other.kept or other.lost):
                how = "that must be alone " if alone else ""
                yield f"instance {placement.instance_id} {how}was placed beside generation {other.generation}"
    judge.looked = len(database.placements)


def what_is_told_as_removed_is_gone(judge: Judge, term: Term | None) -> Iterator[str]:
    """When a placement is written as removed, its host holds nothing of it."""
    for placement in judge.world.database.placements:
        if placement.live or placement.id in judge.removed:
            continue
        judge.removed[placement.id] = None
        machine = judge.world.machine_of(placement)
        # What was removed with its host is there until that comes back, if it ever does.
        if machine is not None and machine.held() and placement.id not in judge.removals.abandoned:
            yield f"placement {placement.id} was told as removed with {sorted(machine.held())}"


def what_was_removed_stays_so(judge: Judge, term: Term | None) -> Iterator[str]:
    """A removed placement never comes back."""
    for placement_id in judge.removed:
        placement = judge.world.database.placements.get(placement_id)
        if placement is None or placement.live:
            yield f"placement {placement_id} was removed and is {placement.state if placement else 'forgotten'}"


COMMIT_RULES = (
    *BELONGING_RULES,
    one_writer_in_each_epoch,
    no_write_of_a_term_that_is_over,
    placements_bear_the_present_epoch,
    no_address_twice,
    leases_are_those_of_live_placements,
    no_node_is_given_more_than_it_has,
    one_placement_serves,
    what_moves_serves_on,
    nothing_is_placed_beside_what_is_in_its_way,
    what_is_told_as_removed_is_gone,
    what_was_removed_stays_so,
    who_answers_others_is_given_time,
)


# --- when a machine starts


def machines_are_explained(judge: Judge, host: SimulatedHost, placement_id: UUID) -> Iterator[str]:
    """A machine is started for a live placement on that host, and its intent is on disk before."""
    placement = judge.world.database.placements.get(placement_id)
    if is_removed(judge, host.node_id):
        return
    if placement is None or not placement.live:
        yield f"{host.name} starts a machine for {placement_id}, which is {'unknown' if placement is None else 'gone'}"
    elif placement.node_id != host.node_id:
        yield f"{host.name} starts a machine of placement {placement_id}, which is another host's"
    intent = host.machines[placement_id].intent
    if intent is None or intent.placement_id != placement_id:
        yield f"{host.name} starts a machine of placement {placement_id}, of which no intent tells"


def never_two_machines_of_one(judge: Judge, host: SimulatedHost, placement_id: UUID) -> Iterator[str]:
    """Two machines of one instance run together only if the older one serves until the newer runs, or its host was
    dead; two of a singleton never, unless somebody has accepted that."""
    database = judge.world.database
    placement = database.placements.get(placement_id)
    if placement is None or is_removed(judge, host.node_id):
        return
    instance = database.instances.get(placement.instance_id)
    alone = instance is not None and instance.singleton and not judge.world.is_forced(instance.id)
    for name, other, machine in judge.world.all_machines():
        if other.instance_id != placement.instance_id or other.id == placement_id or not machine.running:
            continue
        if other.id in judge.removals.abandoned:
            continue
        older = min(placement, other, key=lambda one: one.generation)
        if alone or older.id not in judge.passable:
            how = "that must be alone " if alone else ""
            yield f"instance {placement.instance_id} {how}runs on {name} ({other.generation}) and {host.name} too"


def machines_are_taken_over_rightly(host: SimulatedHost, placement_id: UUID, rightly: bool) -> Iterator[str]:
    """A process takes over a machine only if an intent on disk tells of it, it was let boot, and it is not on its way
    out: anything else is a start that was interrupted."""
    if not rightly:
        yield f"{host.name} takes over a machine of placement {placement_id} that was never whole"


def no_address_on_two_machines(judge: Judge, host: SimulatedHost, placement_id: UUID) -> Iterator[str]:
    """Whatever is written of leases: an address that a machine has, on whatever host, is no other one's."""
    placement = judge.world.database.placements.get(placement_id)
    mine = {placement.v4, placement.v6} - {None} if placement is not None else set()
    if is_removed(judge, host.node_id):
        return
    for name, other, machine in judge.world.all_machines():
        if other.id in judge.removals.abandoned:
            continue
        if other.id != placement_id and machine.running and not mine.isdisjoint((other.v4, other.v6)):
            yield f"{host.name} starts a machine with an address that one on {name} has ({placement_id}, {other.id})"


SPAWN_RULES = (machines_are_explained, never_two_machines_of_one, no_address_on_two_machines)
