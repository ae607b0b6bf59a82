"""What becomes of what is on dead and draining hosts."""

from __future__ import annotations

from uuid import UUID

import pytest

from actors.model.states import InstanceDesired, NodeDesired, NodeState
from actors.scheduler.plan import Planner
from actors.scheduler.relocate import Staying, relocate
from actors.scheduler.store import Displaced, Move, NodeView
from tests.actors.scheduler.parts import node, pending

DOWN, DRAINING = NodeState.DOWN, NodeState.DRAINING
H1 = UUID(int=1)


def displaced(number: int, state: NodeState, **changes: object) -> Displaced:
    values: dict[str, object] = {"singleton": False, "bound": "", "lost": False, "name": "web"}
    values.update(changes)
    instance = values.pop("instance", pending(number))
    return Displaced(instance, UUID(int=500 + number), H1, "h1", state, **values)  # type: ignore[arg-type]


def planner(*elsewhere: NodeView) -> Planner:
    return Planner((node(1, state=DRAINING), *elsewhere))


def moves(one: Displaced, *elsewhere: NodeView) -> list[tuple[Move, str]]:
    found = relocate([one], planner(*elsewhere))
    assert [(m.instance_id, m.generation, m.placement_id) for m in found.moves] in (
        [],
        [(one.instance.id, one.instance.generation, one.placement_id)],
    )
    return [(moved.move, moved.reason) for moved in found.moves]


@pytest.mark.parametrize("elsewhere", [(), (node(2),)])
def test_off_a_dead_host_it_does_not_matter_what_is_free(elsewhere: tuple[NodeView, ...]) -> None:
    assert moves(displaced(1, DOWN), *elsewhere) == [(Move.REPLACE, "host h1 is down: it is placed elsewhere")]
    assert moves(displaced(1, DOWN, singleton=True), *elsewhere) == [
        (Move.UNKNOWN, "host h1 is down and may still run it: `zeitwork replace web --force` places it elsewhere")
    ]
    assert moves(displaced(1, DOWN, bound="pinned to it"), *elsewhere) == [
        (
            Move.UNKNOWN,
            "host h1 is down and it can run only there (pinned to it): it goes on when the host is back",
        )
    ]
    bound = displaced(1, DOWN, singleton=True, bound="its snapshot is there")
    assert "its snapshot is there" in moves(bound, *elsewhere)[0][1]


def test_what_was_uploaded_goes_where_it_is_and_else_stays() -> None:
    bound = "no other host has its image"
    here = frozenset({H1})
    alone = pending(1, image_nodes=here)
    assert moves(displaced(1, DOWN, instance=alone, bound=bound), node(2)) == [
        (Move.UNKNOWN, f"host h1 is down and it can run only there ({bound}): it goes on when the host is back")
    ]
    (one,) = relocate([displaced(1, DRAINING, instance=alone, bound=bound)], planner(node(2))).staying
    assert one.reason == f"h1 is being drained, but it can run only there ({bound})"
    # Decided about, until the image is uploaded to another host.
    assert moves(displaced(1, DOWN, instance=alone, bound=bound, lost=True), node(2)) == []
    both = pending(1, image_nodes=here | {UUID(int=2)})
    assert [what for what, _ in moves(displaced(1, DOWN, instance=both, lost=True), node(2))] == [Move.REPLACE]
    assert moves(displaced(1, DOWN, instance=both, lost=True, singleton=True), node(2)) == []
    assert moves(displaced(1, DRAINING, instance=both, lost=True), node(2)) == []
    # One at a time is stopped only when there is room where its image is.
    assert [what for what, _ in moves(displaced(1, DRAINING, instance=both, singleton=True), node(2))] == [
        Move.STOP_FIRST
    ]
    singleton = displaced(1, DRAINING, instance=both, singleton=True)
    (one,) = relocate([singleton], planner(node(2, memory=0), node(3))).staying
    assert one.reason == "h1 is being drained: 3 hosts: 1 draining, 1 lacks 288 MiB, 1 without its image"


def test_a_nameless_one_is_called_by_its_id() -> None:
    one = displaced(1, DOWN, singleton=True, name="")
    assert f"`zeitwork replace {one.instance.id} --force`" in moves(one)[0][1]


@pytest.mark.parametrize("elsewhere", [(), (node(2),)])
def test_off_a_draining_host_a_stateless_one_is_handed_over_also_when_there_is_no_room_yet(
    elsewhere: tuple[NodeView, ...],
) -> None:
    assert moves(displaced(1, DRAINING), *elsewhere) == [(Move.HAND_OVER, "moves off h1 when there is room")]


def test_a_singleton_is_stopped_only_when_it_fits_elsewhere_now() -> None:
    one = displaced(1, DRAINING, singleton=True)
    assert moves(one, node(2)) == [(Move.STOP_FIRST, "h1 is being drained: it is stopped, then placed elsewhere")]
    found = relocate([one], planner(node(2, memory=100), node(3, desired=NodeDesired.CORDONED)))
    assert found.moves == ()
    reason = "h1 is being drained: 3 hosts: 1 cordoned, 1 draining, 1 lacks 188 MiB"
    assert found.staying == (Staying(one.instance.id, H1, reason),)


def test_the_room_of_one_that_is_stopped_first_is_taken() -> None:
    planning = planner(node(2, vcpu=1))
    both = [displaced(n, DRAINING, singleton=True) for n in (1, 2)]
    found = relocate(both, planning)
    assert [moved.move for moved in found.moves] == [Move.STOP_FIRST]
    assert len(found.staying) == 1
    assert planning.plan([pending(9)]).assignments == ()


def test_whose_turn_it_is_decides_who_gets_the_room() -> None:
    low = displaced(1, DRAINING, singleton=True, instance=pending(1, priority=10))
    high = displaced(2, DRAINING, singleton=True, instance=pending(2, priority=90))
    for order in ([low, high], [high, low]):
        assert [m.instance_id for m in relocate(order, planner(node(2, vcpu=1))).moves] == [high.instance.id]


def test_one_that_can_run_only_there_stays_on_a_draining_host() -> None:
    found = relocate([displaced(1, DRAINING, bound="pinned to it")], planner(node(2)))
    assert found.moves == ()
    assert [one.reason for one in found.staying] == ["h1 is being drained, but it can run only there (pinned to it)"]


@pytest.mark.parametrize("state", [DOWN, DRAINING])
def test_nothing_is_decided_twice_nor_about_what_is_not_wanted(state: NodeState) -> None:
    assert moves(displaced(1, state, lost=True), node(2)) == []
    stopped = pending(1, desired=InstanceDesired.STOPPED)
    assert moves(displaced(1, state, instance=stopped), node(2)) == []


def test_one_whose_host_is_not_emptied_any_more_stays() -> None:
    found = relocate([displaced(1, NodeState.READY)], planner(node(2)))
    assert [(one.move, one.reason) for one in found.moves] == [(Move.STAY, "")]
    assert found.staying == ()
