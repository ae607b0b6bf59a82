"""Small steps that many store tests begin with."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Network
from uuid import UUID, uuid4

import trio

from actors.model.image import ImageConfig
from actors.model.records import Observation, Placement
from actors.model.resources import Capacity, Resources
from actors.model.states import NodeState, Outcome, PlacementState
from actors.scheduler.store import Assignment, Plan, Postponed
from runtime.lease import Term
from zeitwork.store import Store
from zeitwork.store.cursor import Cursor
from zeitwork.store.journal import announce
from zeitwork.store.notifications import Subscription
from zeitwork.store.rows import HostRegistration, ImageRow, InstanceRow, NewInstance, NodeRow

CAPACITY = Capacity(
    vcpu_total=4,
    memory_total=4096,
    vcpu_reserved=0,
    memory_reserved=0,
    vcpu_overcommit=4.0,
    memory_overcommit=1.0,
    memory_overhead=24,
)
CONFIG = ImageConfig(entrypoint=("/bin/app",), cmd=("serve",), env=("A=1",), user="app", exposed_ports=(8080,))
#: The process that leads in tests that are not about elections.
LEADER = UUID(int=1)
EXITED = Observation(PlacementState.REMOVED, outcome=Outcome.EXITED, exit_status=1)
STOPPED = Observation(PlacementState.REMOVED, outcome=Outcome.STOPPED)


def host(**changes: object) -> HostRegistration:
    values: dict[str, object] = {"host_id": uuid4(), "hostname": f"host-{uuid4().hex[:6]}", "boot_id": "boot-1"}
    return HostRegistration(**{**values, **changes})  # type: ignore[arg-type]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread or process does and nobody announces."""
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


async def mark(store: Store, channel: str) -> str:
    """Announce something that is nothing, and return its id."""
    identifier = uuid4()
    await store.units.run(lambda cursor: announce(cursor, channel, identifier), name="test.mark")
    return str(identifier)


async def heeded(store: Store, hints: Subscription, channel: str) -> None:
    """Take the first hint of a new subscription and those of all that was committed until now: they keep its order."""
    await until(lambda: store.metrics.listening == 1)
    with trio.fail_after(60):
        assert (await hints.wait()).everything
        marked = await mark(store, channel)
        while marked not in (await hints.wait()).ids:
            pass


async def ready_node(
    store: Store, *, capacity: Capacity = CAPACITY, v4: str | None = None, **changes: object
) -> NodeRow:
    if v4 is not None:
        changes["region_v4"] = IPv4Network(v4)
    node = await store.nodes.register(host(**changes))
    await store.nodes.record_capacity(node.id, capacity)
    return await store.nodes.set_state(node.id, NodeState.READY)


async def ready_image(store: Store, node: NodeRow, source: str = "registry.example/app:1") -> ImageRow:
    image = await store.images.create(source)
    claimed = await store.images.claim_pending(node.id)
    assert claimed is not None
    assert claimed.id == image.id
    await store.images.ready(image.id, f"sha256:{image.id.hex}", CONFIG, 1_000_000)
    return await store.images.get(image.id)


async def instance(
    store: Store, image: ImageRow, *, memory: int = 128, vcpu: int = 1, **changes: object
) -> InstanceRow:
    new = NewInstance(image.id, Resources(vcpu, memory), 8080, **changes)  # type: ignore[arg-type]
    return await store.instances.create(new)


async def apply_plan(store: Store, plan: Plan) -> tuple[Postponed, ...]:
    """Apply a plan as the leader, whichever store of the test it comes through."""
    return await store.scheduling.apply_plan(plan, await leading(store))


async def leading(store: Store) -> Term:
    """Return the term of the one leader that all stores of a database share, put into office when there was none."""
    nodes = (await store.nodes.list(limit=1)).items
    node_id = nodes[0].id if nodes else (await store.nodes.create("leader")).id

    def unit(cursor: Cursor) -> int:
        # Not elected: several ask at the same time, and none of them shall end another's term.
        cursor.execute(
            "insert into leadership (epoch, node_id, generation, boot, expires_at) "
            "values (1, %s, 1, %s, 'infinity') on conflict do nothing",
            (node_id, LEADER),
        )
        cursor.execute("select epoch from leadership")
        row = cursor.fetchone()
        assert row is not None
        return int(row["epoch"])

    return Term(await store.units.run(unit, name="test.lead"), LEADER, 30.0)


async def place(store: Store, row: InstanceRow, node: NodeRow) -> Placement:
    assert await apply_plan(store, assign(row, node)) == ()
    found = await live(store, node, row.id)
    assert found is not None
    return found


def assign(row: InstanceRow, node: NodeRow) -> Plan:
    return Plan((Assignment(row.id, row.generation, node.id),))


async def live(store: Store, node: NodeRow, instance_id: UUID) -> Placement | None:
    mine = [one for one in await store.placements.placements(node.id) if one.instance_id == instance_id]
    assert len(mine) <= 1
    return mine[0] if mine else None


async def see(store: Store, placement: Placement, seen: Observation) -> None:
    assert await store.placements.observe(placement.id, list(PlacementState), seen)


async def running(store: Store, **changes: object) -> tuple[NodeRow, InstanceRow, Placement]:
    node = await ready_node(store)
    row = await instance(store, await ready_image(store, node), **changes)  # type: ignore[arg-type]
    placement = await place(store, row, node)
    await see(store, placement, Observation(PlacementState.RUNNING, pid=4711, hypervisor="qemu", boot_id="boot-1"))
    return node, await store.instances.get(row.id), placement
