"""The scheduler's decision, as properties over generated snapshots and as examples of its reasons."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from actors.model.records import PendingInstance
from actors.model.resources import Resources
from actors.model.states import ImageStatus, NodeState
from actors.scheduler.plan import evaluate
from actors.scheduler.store import NodeView, Pending


def node(number: int, *, vcpu: int = 4, memory: int = 4096, state: NodeState = NodeState.READY) -> NodeView:
    return NodeView(UUID(int=number), f"n{number}", state, vcpu, memory, vcpu, memory, memory_overhead=32)


def pending(number: int, *, vcpu: int = 1, memory: int = 256, **changes: object) -> PendingInstance:
    values: dict[str, object] = {
        "node_id": None,
        "image_id": UUID(int=1),
        "image_status": ImageStatus.READY,
        "image_error": None,
    }
    values.update(changes)
    return PendingInstance(
        id=UUID(int=1000 + number),
        generation=1,
        resources=Resources(vcpu, memory),
        **values,  # type: ignore[arg-type]
    )


nodes = st.lists(
    st.builds(
        lambda n, v, m, s: node(n, vcpu=v, memory=m, state=s),
        st.integers(1, 50),
        st.integers(0, 16),
        st.integers(0, 8192),
        st.sampled_from(list(NodeState)),
    ),
    max_size=6,
    unique_by=lambda n: n.id,
)
instances = st.lists(
    st.builds(
        lambda i, v, m, s, p: pending(i, vcpu=v, memory=m, image_status=s, node_id=None if p is None else UUID(int=p)),
        st.integers(0, 10_000),
        st.integers(1, 8),
        st.integers(64, 4096),
        st.sampled_from(list(ImageStatus)),
        st.none() | st.integers(1, 50),
    ),
    max_size=30,
    unique_by=lambda i: i.id,
)


@given(nodes, instances)
def test_every_instance_gets_exactly_one_decision_and_no_node_is_overfilled(
    views: list[NodeView], waiting: list[PendingInstance]
) -> None:
    plan = evaluate(Pending(tuple(waiting)), views)
    decided = [a.instance_id for a in plan.assignments] + [p.instance_id for p in plan.postponed]
    assert sorted(decided) == sorted(i.id for i in waiting)
    by_id = {i.id: i for i in waiting}
    for view in views:
        mine = [by_id[a.instance_id] for a in plan.assignments if a.node_id == view.id]
        assert sum(i.resources.vcpu for i in mine) <= view.vcpu_free
        assert sum(i.resources.memory + view.memory_overhead for i in mine) <= view.memory_free
        assert not mine or view.state is NodeState.READY
    for assignment in plan.assignments:
        chosen = by_id[assignment.instance_id]
        assert chosen.image_status is ImageStatus.READY
        assert chosen.node_id in (None, assignment.node_id)


@given(nodes, instances)
def test_an_instance_is_postponed_only_when_no_node_had_room_after_the_plan(
    views: list[NodeView], waiting: list[PendingInstance]
) -> None:
    plan = evaluate(Pending(tuple(waiting)), views)
    by_id = {i.id: i for i in waiting}
    free = {v.id: [v.vcpu_free, v.memory_free] for v in views}
    for assignment in plan.assignments:
        instance = by_id[assignment.instance_id]
        free[assignment.node_id][0] -= instance.resources.vcpu
        free[assignment.node_id][1] -= instance.resources.memory + 32
    for refusal in plan.postponed:
        instance = by_id[refusal.instance_id]
        if instance.image_status is not ImageStatus.READY:
            continue
        for view in views:
            eligible = view.state is NodeState.READY and instance.node_id in (None, view.id)
            fits = instance.resources.vcpu <= free[view.id][0] and instance.resources.memory + 32 <= free[view.id][1]
            assert not (eligible and fits)


def reason(waiting: tuple, views: tuple) -> str:
    (refusal,) = evaluate(Pending(waiting), views).postponed
    return refusal.reason


def test_reasons_count_the_hosts_by_what_each_lacks() -> None:
    views = (node(1, state=NodeState.DRAINING), node(2, state=NodeState.DRAINING), node(3, memory=1000))
    assert reason((pending(1, memory=1480),), views) == "3 hosts: 2 draining, 1 lacks 512 MiB"


def test_an_instance_whose_image_failed_is_refused_for_good_with_the_images_own_words() -> None:
    waiting = pending(1, image_status=ImageStatus.FAILED, image_error="no such tag")
    (refusal,) = evaluate(Pending((waiting,)), (node(1),)).postponed
    assert refusal.final
    assert refusal.reason == "its image failed: no such tag"


def test_without_nodes_and_with_an_absent_pinned_node_the_reason_says_so() -> None:
    assert reason((pending(1),), ()) == "there are no nodes"
    pinned = pending(1, node_id=UUID(int=9))
    assert reason((pinned,), (node(1),)) == "the node it is pinned to is not here"


def test_what_is_to_leave_a_host_is_placed_on_another_one() -> None:
    leaving = pending(1, leaves=UUID(int=2))
    (assignment,) = evaluate(Pending((leaving,)), (node(1), node(2, memory=512))).assignments
    assert assignment.node_id == UUID(int=1)
    assert reason((leaving,), (node(2), node(3, memory=0))) == "2 hosts: 1 is where it is now, 1 lacks 288 MiB"
    # Others may go there.
    plan = evaluate(Pending((leaving, pending(2))), (node(1, memory=0), node(2)))
    assert [one.instance_id for one in plan.assignments] == [UUID(int=1002)]


def test_what_was_uploaded_goes_only_where_it_is() -> None:
    here = frozenset({UUID(int=1), UUID(int=2)})
    uploaded = pending(1, image_id=UUID(int=5), image_nodes=here)
    views = (node(1, state=NodeState.DRAINING), node(2), node(3, memory=512))
    # Others would be packed onto the third one, and the third one has room.
    (assignment,) = evaluate(Pending((uploaded,)), views).assignments
    assert assignment.node_id == UUID(int=2)
    full = (*views[:1], node(2, memory=0), *views[2:])
    assert reason((uploaded,), full) == "3 hosts: 1 draining, 1 lacks 288 MiB, 1 without its image"
    nowhere = pending(1, image_id=UUID(int=5), image_nodes=frozenset())
    assert reason((nowhere,), views[1:]) == "2 hosts: 2 without its image"
    pinned = pending(1, image_id=UUID(int=5), image_nodes=here, node_id=UUID(int=3))
    assert reason((pinned,), views) == "1 host: 1 without its image"
    # One of the same requirements whose image is in a registry is not kept from anywhere by that.
    plan = evaluate(Pending((nowhere, pending(2))), (node(3),))
    assert [one.instance_id for one in plan.assignments] == [UUID(int=1002)]


def test_it_packs_onto_the_fuller_node() -> None:
    (assignment,) = evaluate(Pending((pending(1),)), (node(1), node(2, memory=512))).assignments
    assert assignment.node_id == UUID(int=2)


def test_nothing_goes_to_a_host_that_closed_itself() -> None:
    closed = replace(node(1), closed="memory pressure: tasks waited for memory 40 % of 10 s")
    assert evaluate(Pending((pending(1),)), (closed, node(2))).assignments[0].node_id == node(2).id
    plan = evaluate(Pending((pending(1),)), (closed, replace(closed, id=UUID(int=3), closed="memory pressure: 50 %")))
    assert plan.assignments == ()
    assert plan.postponed[0].reason == "2 hosts: 2 closed (memory pressure)"
