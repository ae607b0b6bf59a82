"""The store and the simulation's double of it are the same, whatever is done to them (DESIGN 2)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from psycopg.conninfo import make_conninfo

from actors.model.health import HealthState
from actors.model.states import InstanceDesired, NodeDesired, NodeState, Outcome, PlacementState, Volumes
from actors.scheduler.store import Move
from tests.conftest import TEMPLATE
from tests.simulation.store import Bug
from tests.zeitwork.store.contract.both import Both
from tests.zeitwork.store.contract.frame import UNKNOWN, Different
from tests.zeitwork.store.contract.people import CAPACITIES, CHECKS, REQUIREMENTS, SIZES, TAINTS
from tests.zeitwork.store.contract.recorded import FOUND, SHOWN
from tests.zeitwork.store.contract.sides import Postgres
from zeitwork.store.embedded import EmbeddedServer

_PICK = st.integers(0, UNKNOWN)
_ENDED = st.sampled_from([0, 0, 0, 0, 0, 0, 1, 2])
_WAIT = st.sampled_from([None, None, 5.0, 77.0])
_LATE = st.sampled_from([0, 0, 0, 1])
_GRACE = st.sampled_from([0.0, 0.0, 60.0, 17.0])
_RARELY = st.sampled_from([False, False, False, True])


def _index(of: tuple[object, ...]) -> st.SearchStrategy[int]:
    return st.integers(0, len(of) - 1)


@pytest.fixture(scope="module")
def postgres(postgres_server: EmbeddedServer) -> Iterator[Postgres]:
    name = f"c_{uuid4().hex}"
    with psycopg.connect(postgres_server.dsn, autocommit=True) as server:
        server.execute(f"create database {name} template {TEMPLATE} strategy file_copy".encode())
        opened = Postgres(make_conninfo(postgres_server.dsn, dbname=name))
        try:
            with opened.growing_ids():
                yield opened
        finally:
            opened.close()
            server.execute(f"drop database {name} with (force)".encode())


class Contract(RuleBasedStateMachine):
    """What people, hosts and the leader do, in any order."""

    def __init__(self, postgres: Postgres) -> None:
        super().__init__()
        self.both = Both(postgres)

    @initialize(check=_index(CHECKS))
    def begin(self, check: int) -> None:
        """Begin with two that run, one of which may never run twice."""
        self.both.begin()
        self.both.create(check=check)
        self.both.create(singleton=True)
        self.both.evaluate()
        self.both.start(2)

    @rule(number=st.integers(0, 3), region=st.sampled_from([0, 0, 0, 1, 2]), zone=st.sampled_from("ab"))
    def register(self, number: int, region: int, zone: str) -> None:
        self.both.register(number, region, zone)

    @rule(
        node=_PICK,
        state=st.sampled_from([NodeState.READY, NodeState.READY, NodeState.DOWN, NodeState.BOOTING]),
        reason=st.sampled_from(["", "told so"]),
    )
    def state(self, node: int, state: NodeState, reason: str) -> None:
        self.both.state(node, state, reason)

    @rule(node=_PICK)
    def ready(self, node: int) -> None:
        self.both.heartbeat(node)
        self.both.state(node, NodeState.READY)

    @rule(node=_PICK, desired=st.sampled_from(NodeDesired))
    def desire_node(self, node: int, desired: NodeDesired) -> None:
        self.both.desire_node(node, desired)

    @rule(node=_PICK, what=st.integers(0, 6), which=st.integers(0, 3))
    def tune_node(self, node: int, what: int, which: int) -> None:
        match what:
            case 0:
                self.both.capacity(node, which % len(CAPACITIES))
            case 1:
                self.both.close_node(node, ("", "its disk is full")[which % 2])
            case 2:
                self.both.taints(node, which % len(TAINTS))
            case 3:
                self.both.condition(node, (None, "qemu", "cloud-hypervisor", "qemu")[which], which / 4)
            case 4 | 5:
                self.both.delete_node(node, dead=what == 5)
            case _:
                # Seldom: whoever has left is gone for good.
                self.both.leave(node, force=which == 0)

    @rule(
        what=st.integers(0, 5),
        name=st.integers(0, 3),
        node=_PICK,
        which=st.integers(0, 2),
        again=st.booleans(),
        odd=_RARELY,
        ended=_ENDED,
    )
    def guest(self, what: int, name: int, node: int, which: int, again: bool, odd: bool, ended: int) -> None:
        """Invite a host, or do something about those that were."""
        match what:
            case 0:
                self.both.invite(name, again, (30.0, 50.0, 600.0)[which], coded=not odd, far=odd and again)
            case 1:
                self.both.invite_again(node)
            case 2:
                self.both.try_one(node, which, ended, late=odd)
            case 3:
                self.both.give_up(node, ended, late=odd)
            case 4:
                self.both.finish(node, ended, late=odd)
            case _:
                # Most hosts bring what was made for them.
                self.both.mint(node, which, ended)
                self.both.redeem(which, name, node if again else None, right=not odd)

    @rule(node=_PICK, late=_LATE)
    def heartbeat(self, node: int, late: int) -> None:
        self.both.heartbeat(node, late)

    @rule(node=_PICK, late=_RARELY, ended=_ENDED, grace=_GRACE)
    def mark_down(self, node: int, late: bool, ended: int, grace: float) -> None:
        self.both.mark_down(node, late, ended, grace)

    @rule(own=_PICK, limit=st.sampled_from([1, 2, 5000, 5000]), ended=_ENDED)
    def commands(self, own: int, limit: int, ended: int) -> None:
        self.both.commands(own, limit, ended)

    @rule(
        what=st.integers(0, 3),
        number=st.integers(0, 2),
        upload=st.sampled_from([None, 0, 1]),
        node=_PICK,
        images=st.lists(st.integers(0, 2), max_size=3),
    )
    def image(self, what: int, number: int, upload: int | None, node: int, images: list[int]) -> None:
        match what:
            case 0:
                self.both.image(number, upload)
            case 1:
                self.both.image_ready(number)
            case 2:
                self.both.image_failed(number)
            case _:
                self.both.cached(node, images)

    @rule(
        image=st.sampled_from([0, 0, 0, 1, UNKNOWN]),
        size=st.sampled_from([0, 0, *range(len(SIZES))]),
        name=st.sampled_from([None, None, 0, 1, 2]),
        pin=st.sampled_from([None, None, None, 0, 1, UNKNOWN]),
        priority=st.sampled_from([50, 50, 0, 100]),
        singleton=_RARELY,
        requirements=st.sampled_from([0, 0, 0, *range(len(REQUIREMENTS))]),
        check=_index(CHECKS),
        again=st.sampled_from([None] * 6 + [0]),
    )
    def create(self, **new: object) -> None:
        self.both.create(**new)  # type: ignore[arg-type]

    @rule(size=st.integers(0, 1), singleton=st.booleans(), check=_index(CHECKS))
    def run(self, size: int, singleton: bool, check: int) -> None:
        """Create one, and place it where it fits."""
        self.both.create(size=size, singleton=singleton, check=check)
        self.both.evaluate()
        self.both.start(1)

    @rule(
        instance=_PICK,
        desired=st.sampled_from(InstanceDesired),
        force=_RARELY,
        wait=_WAIT,
        volumes=st.sampled_from([Volumes.KEEP, Volumes.KEEP, Volumes.DELETE]),
    )
    def desire(
        self, instance: int, desired: InstanceDesired, force: bool, wait: float | None, volumes: Volumes
    ) -> None:
        self.both.desire(instance, desired, force, wait, volumes)

    @rule(instance=_PICK, force=_RARELY, wait=_WAIT)
    def restart(self, instance: int, force: bool, wait: float | None) -> None:
        self.both.restart(instance, force, wait)

    @rule(instance=_PICK, paused=st.booleans())
    def pause(self, instance: int, paused: bool) -> None:
        if paused:
            self.both.pause(instance)
        else:
            self.both.resume(instance)

    @rule(instance=_PICK, force=st.booleans())
    def replace(self, instance: int, force: bool) -> None:
        self.both.replace(instance, force)

    @rule(
        name=st.integers(0, 1),
        replicas=st.sampled_from([0, 1, 2, 3, 1001]),
        image=st.sampled_from([0, 0, 0, 1, UNKNOWN]),
        size=st.sampled_from([0, 0, 1, 3]),
        singleton=_RARELY,
    )
    def group(self, **new: object) -> None:
        self.both.group(**new)  # type: ignore[arg-type]

    @rule(group=_PICK, replicas=st.sampled_from([0, 1, 2, 3, -1, None]))
    def scale(self, group: int, replicas: int | None) -> None:
        """Want another number of members, or none and no group."""
        if replicas is None:
            self.both.delete_group(group)
        else:
            self.both.scale(group, replicas)

    @rule(chance=st.sampled_from([0.0, 1.0]), ended=_ENDED)
    def reconcile(self, chance: float, ended: int) -> None:
        self.both.reconcile(chance, ended)

    @rule(
        group=_PICK,
        late=_LATE,
        create=st.lists(st.integers(0, 4), max_size=3).map(tuple),
        terminate=st.lists(_PICK, max_size=2).map(tuple),
        failures=st.sampled_from([None, 0, 1]),
        retry_in=st.sampled_from([None, 0.0, 30.0]),
        gone=st.booleans(),
        twice=st.booleans(),
    )
    def change_group(self, **change: object) -> None:
        self.both.change_group(**change)  # type: ignore[arg-type]

    @rule(page=st.sampled_from([1, 2, 5000]), ended=_ENDED, twice=_RARELY)
    def evaluate(self, page: int, ended: int, twice: bool) -> None:
        self.both.evaluate(page, ended, twice)

    @rule(
        choices=st.lists(st.tuples(_PICK, _LATE, _PICK), max_size=4),
        postponed=st.lists(st.tuples(_PICK, _LATE, st.booleans()), max_size=2),
        ended=_ENDED,
    )
    def assign(self, choices: list[tuple[int, int, int]], postponed: list[tuple[int, int, bool]], ended: int) -> None:
        self.both.assign(choices, postponed, ended)

    @rule(ended=_ENDED, twice=_RARELY)
    def relocate(self, ended: int, twice: bool) -> None:
        self.both.relocate(ended, twice)

    @rule(moves=st.lists(st.tuples(_PICK, _LATE, st.sampled_from(Move)), min_size=1, max_size=3), ended=_ENDED)
    def move(self, moves: list[tuple[int, int, Move]], ended: int) -> None:
        self.both.move(moves, ended)

    @rule(node=_PICK, placements=st.integers(0, 2))
    def clear(self, node: int, placements: int) -> None:
        """Empty a host as far as the scheduler gets, and let some of what was there begin elsewhere."""
        self.both.desire_node(node, NodeDesired.DRAINING)
        self._go_on(placements)

    @rule(node=_PICK, placements=st.integers(0, 2))
    def die(self, node: int, placements: int) -> None:
        """Let a host die, and what was there be replaced."""
        self.both.mark_down(node)
        self._go_on(placements)

    def _go_on(self, placements: int) -> None:
        self.both.relocate()
        self.both.evaluate()
        self.both.start(placements)

    @rule(
        placement=_PICK,
        state=st.sampled_from(PlacementState),
        outcome=st.sampled_from([None, *Outcome]),
        status=st.sampled_from([None, 0, 1]),
        failures=st.sampled_from([None, 0, 1, 3]),
        reason=st.sampled_from(["", "", "so it was"]),
        expected=st.one_of(
            st.just(tuple(PlacementState)), st.lists(st.sampled_from(PlacementState), max_size=4).map(tuple)
        ),
        wait=st.sampled_from([None, 30.0]),
    )
    def observe(self, **seen: object) -> None:
        self.both.observe(**seen)  # type: ignore[arg-type]

    @rule(placement=st.integers(0, 3), state=st.sampled_from([PlacementState.RUNNING, PlacementState.REMOVED]))
    def go_on(self, placement: int, state: PlacementState) -> None:
        """Let a host do what it mostly does."""
        outcome = Outcome.STOPPED if state is PlacementState.REMOVED else None
        self.both.observe(placement, state, outcome)

    @rule(placement=st.integers(0, 3), state=st.sampled_from(HealthState), reason=st.sampled_from(["", "it answers"]))
    def health(self, placement: int, state: HealthState, reason: str) -> None:
        self.both.health(placement, state, reason)

    @rule(seconds=st.sampled_from([4, 13, 33, 64, 130]))
    def wait(self, seconds: int) -> None:
        self.both.wait(seconds)

    @rule(
        what=st.integers(0, 4),
        node=_PICK,
        ttl=st.sampled_from([10.0, 100.0]),
        above=st.sampled_from([0, 0, 3, 9]),
        boot=st.integers(0, 3),
        ended=st.integers(0, 2),
    )
    def lead(self, what: int, node: int, ttl: float, above: int, boot: int, ended: int) -> None:
        """Elect, or let a host ask what it may destroy."""
        match what:
            case 0:
                self.both.acquire(node, ttl, above, boot)
            case 1:
                self.both.renew(ended)
            case 2:
                self.both.resign(ended)
            case 3:
                self.both.tombstones(node)
            case _:
                self.both.expire(node)


@pytest.mark.timeout(900)
def test_any_sequence_is_the_same_on_both(postgres: Postgres) -> None:
    """``ZEITWORK_CONTRACT_EXAMPLES`` and ``ZEITWORK_CONTRACT_STEPS`` make it as long as one likes."""
    run_state_machine_as_test(
        lambda: Contract(postgres),
        settings=settings(
            max_examples=int(os.environ.get("ZEITWORK_CONTRACT_EXAMPLES", "60")),
            stateful_step_count=int(os.environ.get("ZEITWORK_CONTRACT_STEPS", "40")),
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_stays_the_same(postgres: Postgres, name: str) -> None:
    both = Both(postgres)
    both.begin()
    FOUND[name](both)


@pytest.mark.parametrize("bug", SHOWN)
def test_what_is_not_the_same_is_seen(postgres: Postgres, bug: Bug) -> None:
    """The look sees each bug that the double can have, and nothing while it has none."""
    both = Both(postgres)
    both.begin()
    SHOWN[bug](both)
    both = Both(postgres, frozenset({bug}))
    both.begin()
    with pytest.raises(Different):
        SHOWN[bug](both)
