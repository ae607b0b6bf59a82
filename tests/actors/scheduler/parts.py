"""Nodes and pending instances for tests, and what a node could take by the words of the rules alone."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from hypothesis import strategies as st

from actors.model.records import PendingInstance
from actors.model.resources import Resources
from actors.model.scheduling import Requirements, Strategy, Taint
from actors.model.states import ImageStatus, NodeDesired, NodeState
from actors.scheduler.store import NodeView, Plan

OVERHEAD = 32
#: An image that was uploaded, and the nodes that have it.
UPLOADED, UPLOADED_TO = UUID(int=4), frozenset(UUID(int=number) for number in range(1, 26))


def node(number: int, *, vcpu: int = 4, memory: int = 4096, **changes: object) -> NodeView:
    values: dict[str, object] = {"state": NodeState.READY, "vcpu_free": vcpu, "memory_free": memory}
    values.update(changes)
    return NodeView(
        UUID(int=number),
        f"n{number}",
        vcpu=vcpu,
        memory=memory,
        memory_overhead=OVERHEAD,
        **values,  # type: ignore[arg-type]
    )


def pending(number: int, *, vcpu: int = 1, memory: int = 256, **changes: object) -> PendingInstance:
    values: dict[str, object] = {
        "generation": 1,
        "node_id": None,
        "image_id": UUID(int=1),
        "image_status": ImageStatus.READY,
        "image_error": None,
    }
    values.update(changes)
    if values["image_id"] == UPLOADED:
        values["image_nodes"] = UPLOADED_TO
    return PendingInstance(id=UUID(int=1000 + number), resources=Resources(vcpu, memory), **values)  # type: ignore[arg-type]


def may_run(instance: PendingInstance, view: NodeView) -> bool:
    """Say whether an instance may be on a node, whatever is free there."""
    asked = instance.requirements
    return (
        view.state is NodeState.READY
        and view.desired is NodeDesired.READY
        and not view.closed
        and instance.image_status is ImageStatus.READY
        and instance.node_id in (None, view.id)
        and (instance.image_nodes is None or view.id in instance.image_nodes)
        and asked.region in (None, view.region)
        and set(asked.labels) <= set(view.labels.items())
        and all(taint in asked.tolerations or Taint(taint.key) in asked.tolerations for taint in view.taints)
        and asked.hypervisor in (None, view.hypervisor)
        and asked.architecture in (None, view.architecture)
    )


def free_after(
    plan: Plan, instances: Iterable[PendingInstance], views: Iterable[NodeView]
) -> dict[UUID, tuple[int, int]]:
    """Return the vCPU and MiB that are left on each node when a plan was carried out."""
    by_id = {instance.id: instance for instance in instances}
    free = {view.id: (view.vcpu_free, view.memory_free) for view in views}
    for assignment in plan.assignments:
        asked = by_id[assignment.instance_id].resources
        vcpu, memory = free[assignment.node_id]
        free[assignment.node_id] = (vcpu - asked.vcpu, memory - asked.memory - OVERHEAD)
    return free


_taints = st.lists(st.sampled_from([Taint("gpu"), Taint("gpu", "a"), Taint("slow")]), max_size=2, unique=True).map(
    tuple
)
_labels = st.dictionaries(st.sampled_from(["zone", "disk"]), st.sampled_from(["a", "b"]), max_size=2)

nodes = st.lists(
    st.builds(
        lambda number, vcpu, memory, used, changes: node(
            number,
            vcpu=vcpu,
            memory=memory,
            vcpu_free=int(vcpu * used),
            memory_free=int(memory * used),
            **changes,
        ),
        st.integers(1, 50),
        st.integers(0, 16),
        st.integers(0, 8192),
        st.sampled_from([1.0, 1.0, 0.5, 0.0]),
        st.fixed_dictionaries(
            {},
            optional={
                "state": st.sampled_from(list(NodeState)),
                "desired": st.sampled_from(list(NodeDesired)),
                "closed": st.just("memory pressure: 40 %"),
                "region": st.sampled_from(["eu", "us"]),
                "labels": _labels,
                "taints": _taints,
                "hypervisor": st.sampled_from(["qemu", "firecracker"]),
                "architecture": st.just("aarch64"),
                "pressure": st.floats(0, 1),
            },
        ),
    ),
    max_size=12,
    unique_by=lambda view: view.id,
)
requirements = st.builds(
    Requirements,
    region=st.sampled_from([None, None, "eu"]),
    labels=st.sampled_from([(), (), (("disk", "a"),), (("disk", "a"), ("zone", "b"))]),
    hypervisor=st.sampled_from([None, None, "qemu"]),
    architecture=st.sampled_from([None, None, "x86_64"]),
    tolerations=_taints,
    strategy=st.sampled_from([None, *Strategy]),
)
instances = st.lists(
    st.builds(
        lambda number, vcpu, memory, changes: pending(number, vcpu=vcpu, memory=memory, **changes),
        st.integers(0, 10_000),
        st.integers(1, 8),
        st.integers(64, 4096),
        st.fixed_dictionaries(
            {},
            optional={
                "image_status": st.sampled_from(list(ImageStatus)),
                "image_id": st.integers(1, 4).map(lambda number: UUID(int=number)),
                "node_id": st.integers(1, 50).map(lambda number: UUID(int=number)),
                "group_id": st.integers(1, 3).map(lambda number: UUID(int=number)),
                "requirements": requirements,
                "priority": st.integers(0, 100),
                "waiting": st.floats(0, 7200),
            },
        ),
    ),
    max_size=40,
    unique_by=lambda instance: instance.id,
)
