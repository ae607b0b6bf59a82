"""Groups and their members on real Postgres, with people and the leader changing them at the same time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from actors.model.errors import Conflict, InvalidInput, NotFound
from actors.model.health import HealthCheck, HealthType
from actors.model.records import Observation
from actors.model.resources import Resources
from actors.model.restart import RestartMode, RestartPolicy
from actors.model.scheduling import MAX_REPLICAS, Requirements, Strategy, Taint
from actors.model.states import InstanceDesired, InstanceState, NodeState, PlacementState
from actors.scheduler.queue import in_turn
from actors.scheduler.store import GroupChange, GroupView, Plan, Postponed
from runtime.lease import Fenced, Term
from tests.zeitwork.store.world import EXITED, instance, leading, place, ready_image, ready_node, see
from zeitwork.store import Store, open_store
from zeitwork.store import groups as groups_module
from zeitwork.store.group_rows import template_from_json, template_to_json
from zeitwork.store.requirements import requirements_from_json, requirements_to_json
from zeitwork.store.rows import GroupRow, ImageRow, InstanceRow, NewGroup, NewInstance, NodeRow

WISH = Requirements(
    region="eu",
    labels=(("disk", "fast"), ("zone", "a")),
    hypervisor="qemu",
    architecture="x86_64",
    tolerations=(Taint("gpu"), Taint("team", "red")),
    strategy=Strategy.BINPACK,
)


async def group(
    store: Store, image: ImageRow, *, name: str = "web", replicas: int = 3, memory: int = 64, **changes: Any
) -> GroupRow:
    template = NewInstance(image.id, Resources(1, memory), 8080, **changes)
    return await store.groups.create(NewGroup(name, template, replicas))


async def begin(store: Store) -> tuple[NodeRow, ImageRow]:
    node = await ready_node(store)
    return node, await ready_image(store, node)


async def members(store: Store, row: GroupRow) -> list[InstanceRow]:
    return sorted((await store.instances.list(group_id=row.id, limit=1000)).items, key=lambda one: one.slot or 0)


async def apply(store: Store, *changes: GroupChange, term: Term | None = None) -> int:
    return await store.scheduling.apply_groups(changes, term or await leading(store))


async def view(store: Store, row: GroupRow) -> GroupView:
    (found,) = [one for one in await store.scheduling.groups() if one.id == row.id]
    return found


def fill(row: GroupRow, *slots: int) -> GroupChange:
    return GroupChange(row.id, row.generation, create=slots or tuple(range(row.replicas)))


async def test_a_group_and_its_members(store: Store) -> None:
    _, image = await begin(store)
    made = await group(
        store,
        image,
        environment={"A": "b"},
        command=("/bin/app",),
        stop_timeout=5.0,
        restart=RestartPolicy(RestartMode.ON_FAILURE, 3),
        health=HealthCheck(HealthType.HTTP, "/up", 81, 5.0, 1.0, 4),
        priority=70,
        singleton=True,
        requirements=WISH,
    )
    assert (made.replicas, made.members, made.running, made.generation) == (3, 0, 0, 1)
    assert await store.groups.get(made.id) == await store.groups.find("web") == made
    seen = await view(store, made)
    assert (seen.name, seen.generation, seen.replicas, seen.deleted, seen.members) == ("web", 1, 3, False, ())
    assert await apply(store, fill(made)) == 3
    found = await members(store, made)
    assert [(one.name, one.slot, one.group_id, one.group_name) for one in found] == [
        (f"web-{slot}", slot, made.id, "web") for slot in range(3)
    ]
    for one in found:
        template = made.template
        assert (one.resources, one.default_port, one.environment) == (template.resources, 8080, {"A": "b"})
        assert (one.command, one.stop_timeout, one.restart) == (("/bin/app",), 5.0, template.restart)
        assert (one.health_check, one.priority, one.singleton) == (template.health, 70, True)
        assert one.requirements == WISH
        assert (one.state, one.desired) == (InstanceState.PENDING, InstanceDesired.RUNNING)
    told = [event.what for event in await store.groups.events(made.id)]
    assert told == ["group.created", *["instance.created"] * 3]
    (event, *_) = await store.instances.events(found[0].id)
    assert (event.who, event.data["slot"], "environment" in event.data) == ("scheduler", 0, False)
    assert (await store.groups.get(made.id)).members == 3


async def test_what_is_all_right_is_not_looked_at(store: Store) -> None:
    node, image = await begin(store)
    made = await group(store, image, replicas=2)
    await apply(store, fill(made))
    assert await store.scheduling.groups() == ()
    first, second = await members(store, made)
    # One that a person stopped keeps its slot; the planner may look at it as often as it likes.
    await store.instances.set_desired(second.id, InstanceDesired.STOPPED)
    assert [(one.slot, one.desired) for one in (await view(store, made)).members] == [
        (0, InstanceDesired.RUNNING), (1, InstanceDesired.STOPPED),
    ]  # fmt: skip
    await store.instances.set_desired(second.id, InstanceDesired.RUNNING)
    assert await store.scheduling.groups() == ()
    placement = await place(store, first, node)
    await see(store, placement, Observation(PlacementState.RUNNING))
    assert await store.scheduling.groups() == ()
    assert (await store.groups.get(made.id)).running == 1
    await see(store, placement, EXITED)  # failed for good: nobody starts it again
    assert (await store.instances.get(first.id)).state is InstanceState.FAILED
    seen = await view(store, made)
    assert [(one.state, one.placed) for one in seen.members] == [
        (InstanceState.FAILED, False), (InstanceState.PENDING, False),
    ]  # fmt: skip
    change = GroupChange(made.id, 1, create=(0,), terminate=(first.id,), failures=1, retry_in=60.0)
    assert await apply(store, change) == 2
    failed = await view(store, made)  # to see that it runs, and forget the failure
    assert (failed.failures, [one.id == first.id for one in failed.members]) == (1, [False, False])
    assert 0 < failed.retry_in <= 60
    assert "failed once" in (await store.groups.get(made.id)).reason
    await apply(store, GroupChange(made.id, 1, failures=0, retry_in=0.0))
    assert await store.scheduling.groups() == ()
    assert (await store.groups.get(made.id)).retry_at is None


async def test_where_members_are_is_seen(store: Store) -> None:
    node, image = await begin(store)
    made = await group(store, image, replicas=2)
    await apply(store, fill(made))
    first, _ = await members(store, made)
    await place(store, first, node)
    await store.groups.scale(made.id, 1)
    assert [(one.placed, one.node_state) for one in (await view(store, made)).members] == [
        (True, NodeState.READY), (False, None),
    ]  # fmt: skip


async def test_members_that_are_made_together_wait_equally_long(store: Store) -> None:
    _, image = await begin(store)
    row = await group(store, image, replicas=5)
    await apply(store, fill(row, 0, 1, 2, 3, 4))
    found = (await store.scheduling.pending()).instances
    assert len({one.waiting for one in found}) == 1
    assert in_turn(found) == sorted(found, key=lambda one: one.id)


async def test_scaling_up_and_down(store: Store) -> None:
    node, image = await begin(store)
    made = await group(store, image, replicas=1)
    await apply(store, fill(made))
    larger = await store.groups.scale(made.id, 3)
    assert (larger.replicas, larger.generation) == (3, 2)
    assert await apply(store, fill(made, 1, 2)) == 0  # decided for one
    assert await apply(store, fill(larger, 1, 2)) == 2
    assert await store.groups.scale(made.id, 3) == await store.groups.get(made.id)
    assert (await store.groups.get(made.id)).generation == 2
    one, two, three = await members(store, made)
    placement = await place(store, two, node)
    smaller = await store.groups.scale(made.id, 1)
    assert await apply(store, GroupChange(made.id, smaller.generation, terminate=(two.id, three.id))) == 2
    assert (await store.instances.get(three.id)).state is InstanceState.TERMINATED
    assert (await store.instances.get(two.id)).desired is InstanceDesired.TERMINATED
    # Its host still has it: the slot is not free, whoever asks.
    assert await apply(store, GroupChange(made.id, smaller.generation, create=(1,))) == 0
    await see(store, placement, Observation(PlacementState.REMOVED))
    assert [row.id for row in await members(store, made)] == [one.id]
    assert await store.scheduling.groups() == ()
    (event,) = [event for event in await store.instances.events(two.id) if event.what == "instance.desired"]
    assert event.who == "scheduler"


async def test_a_deleted_group_ends_with_its_members(store: Store) -> None:
    node, image = await begin(store)
    made = await group(store, image, replicas=2)
    await apply(store, fill(made))
    first, second = await members(store, made)
    placement = await place(store, first, node)
    gone = await store.groups.delete(made.id)
    assert gone.deleted_at is not None
    assert await store.groups.delete(made.id) == gone
    assert gone.reason == "being removed: 2 left"
    with pytest.raises(Conflict, match="deleted"):
        await store.groups.scale(made.id, 5)
    with pytest.raises(Conflict, match="still being removed") as taken:
        await group(store, image)
    assert taken.value.field == "name"
    seen = await view(store, made)
    assert seen.deleted
    assert await apply(store, GroupChange(made.id, seen.generation, create=(7,), gone=True)) == 0
    assert (await store.groups.get(made.id)).gone_at is None  # two are left
    change = GroupChange(made.id, seen.generation, terminate=(first.id, second.id))
    assert await apply(store, change) == 2
    await see(store, placement, Observation(PlacementState.REMOVED))
    assert await apply(store, GroupChange(made.id, seen.generation, gone=True)) == 0
    assert (await store.groups.get(made.id)).gone_at is not None
    assert await store.scheduling.groups() == ()
    assert (await store.groups.list()).items == ()
    with pytest.raises(NotFound):
        await store.groups.find("web")
    again = await group(store, image)
    assert again.id != made.id
    assert (await store.groups.events(made.id))[-1].what in ("group.gone", "instance.state")


async def test_a_name_that_somebody_has_costs_the_name_only(store: Store) -> None:
    _, image = await begin(store)
    foreign = await instance(store, image, name="web-1")
    made = await group(store, image)
    other = await group(store, image, name="db", replicas=1)
    assert await apply(store, fill(made), fill(other)) == 4
    assert [(one.slot, one.name) for one in await members(store, made)] == [(0, "web-0"), (1, None), (2, "web-2")]
    assert (await store.instances.get(foreign.id)).group_id is None
    (told,) = [event for event in await store.groups.events(made.id) if event.what == "group.name-taken"]
    assert told.data["reason"] == "another instance is named web-1"
    assert await apply(store, fill(made)) == 0
    assert await store.scheduling.groups() == ()


async def test_only_members_are_ended(store: Store) -> None:
    _, image = await begin(store)
    foreign = await instance(store, image)
    made, other = await group(store, image), await group(store, image, name="other", replicas=1)
    await apply(store, fill(other))
    (theirs,) = await members(store, other)
    assert await apply(store, GroupChange(made.id, 1, terminate=(foreign.id, theirs.id, uuid4()))) == 0
    for row in (foreign, theirs):
        assert (await store.instances.get(row.id)).desired is InstanceDesired.RUNNING
    assert await apply(store, GroupChange(uuid4(), 1, create=(0,))) == 0


async def test_what_is_refused_names_the_field(store: Store) -> None:
    _, image = await begin(store)
    made = await group(store, image)
    for replicas in (-1, MAX_REPLICAS + 1):
        with pytest.raises(InvalidInput) as refused:
            await group(store, image, name="more", replicas=replicas)
        assert refused.value.field == "replicas"
        with pytest.raises(InvalidInput):
            await store.groups.scale(made.id, replicas)
    with pytest.raises(InvalidInput, match=r"999999 MiB asked for, the largest host has 4072 MiB") as refused:
        await group(store, image, name="more", memory=999999)
    assert refused.value.field == "resources.memory"
    with pytest.raises(InvalidInput) as refused:
        await group(store, replace(image, id=uuid4()), name="more")
    assert refused.value.field == "image_id"
    with pytest.raises(InvalidInput) as refused:
        await group(store, image, name="more", snapshot_id=uuid4())
    assert refused.value.field == "snapshot_id"
    with pytest.raises(Conflict) as conflict:
        await group(store, image)
    assert (conflict.value.field, "zeitwork scale web" in (conflict.value.fix or "")) == ("name", True)
    for call in (store.groups.get(uuid4()), store.groups.scale(uuid4(), 1), store.groups.delete(uuid4())):
        with pytest.raises(NotFound):
            await call
    assert [row.name for row in (await store.groups.list()).items] == ["web"]


async def test_creating_the_same_one_again_is_harmless(store: Store) -> None:
    _, image = await begin(store)
    new = NewGroup("web", NewInstance(image.id, Resources(1, 64), 80), 2, uuid4())
    found: list[GroupRow] = []

    async def create() -> None:
        found.append(await store.groups.create(new))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(create)
    assert {row.id for row in found} == {new.id}
    assert len(await store.groups.events(found[0].id)) == 1


async def test_groups_come_in_pages(store: Store) -> None:
    _, image = await begin(store)
    made = [await group(store, image, name=f"g{index}", replicas=0) for index in range(5)]
    first = await store.groups.list(limit=3)
    rest = await store.groups.list(limit=3, cursor=first.next_cursor)
    assert [row.id for row in (*first.items, *rest.items)] == [row.id for row in made]
    assert rest.next_cursor is None
    assert [row.name for row in (await store.groups.list(name="g3")).items] == ["g3"]
    assert await store.scheduling.groups() == ()


async def test_an_image_that_a_group_needs_stays(store: Store) -> None:
    _, image = await begin(store)
    made = await group(store, image, replicas=0)
    assert (await store.images.get(image.id)).used_by == 1
    with pytest.raises(Conflict, match="used by group web"):
        await store.images.delete(image.id)
    await store.groups.delete(made.id)
    with pytest.raises(Conflict):
        await store.images.delete(image.id)
    await apply(store, GroupChange(made.id, 2, gone=True))
    assert (await store.images.delete(image.id)).deleted_at is not None
    with pytest.raises(InvalidInput):
        await group(store, image)


async def test_what_keeps_members_back_is_said_of_the_group(store: Store) -> None:
    _, image = await begin(store)
    made = await group(store, image)
    await apply(store, fill(made))
    assert (await store.groups.get(made.id)).reason == ""
    first, *others = await members(store, made)
    postponed = (Postponed(first.id, 1, "no host"), *(Postponed(one.id, 1, "1 host: 1 full") for one in others))
    await store.scheduling.apply_plan(Plan(postponed=postponed), await leading(store))
    assert (await store.groups.get(made.id)).reason == "2 pending: 1 host: 1 full"


async def test_a_term_that_is_over_changes_nothing(store: Store) -> None:
    _, image = await begin(store)
    made = await group(store, image)
    term = await leading(store)
    with pytest.raises(Fenced):
        await apply(store, fill(made), term=replace(term, epoch=term.epoch + 1))
    assert await members(store, made) == []


# What follows is done by several at once.


async def race(*calls: Callable[[], Any]) -> None:
    """Do all of these at once, each after a moment of its own."""

    async def do(call: Callable[[], Any]) -> None:
        await trio.sleep(random.random() * 0.004)
        await call()

    async with trio.open_nursery() as nursery:
        for call in calls:
            nursery.start_soon(do, call)


async def excess(store: Store, row: GroupRow) -> list[str]:
    """Return where the journal, which is in the order of commits, tells of a member that nobody wanted any more."""
    wanted, alive, found = 0, set[UUID](), []
    for event in await store.groups.events(row.id, limit=1000):
        match event.what:
            case "group.created":
                wanted = event.data["replicas"]
            case "group.scaled":
                wanted = event.data["to"]
            case "group.deleted":
                wanted = 0
            case "instance.created":
                alive.add(event.subject_id)
                if len(alive) > wanted:
                    found.append(f"{event.id}: {len(alive)} members, {wanted} wanted")
            case "instance.desired" if event.data["desired"] == "terminated":
                alive.discard(event.subject_id)
    return found


async def scale_races(store: Store, other: Store, image: ImageRow, rounds: int) -> list[str]:
    """Return what went wrong while a person scales down and two leaders' changes for the former number arrive."""
    found = []
    for number in range(rounds):
        made = await group(store, image, name=f"g{number}", replicas=5)
        term = await leading(store)
        change = fill(made)
        await race(
            partial(store.groups.scale, made.id, 2),
            partial(apply, other, change, term=term),
            partial(apply, store, change, term=term),
        )
        found += await excess(store, made)
        count = len(await members(store, made))
        if count not in (0, 5):
            found.append(f"{count} members")
    return found


async def test_scaling_and_applying_at_once(database_url: str) -> None:
    async with open_store(database_url, size=6) as store, open_store(database_url, size=6) as other:
        _, image = await begin(store)
        assert await scale_races(store, other, image, 30) == []


async def test_planted_without_its_generation_a_change_makes_too_many(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups_module, "_as_seen", lambda group, change: True)
    async with open_store(database_url, size=6) as store, open_store(database_url, size=6) as other:
        _, image = await begin(store)
        assert await scale_races(store, other, image, 30) != []


async def test_two_applies_of_one_change_make_one_member_a_slot(database_url: str) -> None:
    async with open_store(database_url, size=6) as store, open_store(database_url, size=6) as other:
        _, image = await begin(store)
        term = await leading(store)
        for number in range(10):
            one = await group(store, image, name=f"a{number}", replicas=4)
            two = await group(store, image, name=f"b{number}", replicas=4)
            done: list[int] = []

            async def both(mine: Store, *changes: GroupChange, done: list[int] = done) -> None:
                done.append(await mine.scheduling.apply_groups(changes, term))

            await race(partial(both, store, fill(one), fill(two)), partial(both, other, fill(two), fill(one)))
            assert sorted(done) == [0, 8]
            for row in (one, two):
                assert [member.slot for member in await members(store, row)] == [0, 1, 2, 3]


async def test_deleting_and_applying_at_once(database_url: str) -> None:
    async with open_store(database_url, size=6) as store, open_store(database_url, size=6) as other:
        _, image = await begin(store)
        term = await leading(store)
        for number in range(20):
            made = await group(store, image, name=f"g{number}")
            await race(
                partial(store.groups.delete, made.id),
                partial(apply, other, fill(made), term=term),
                partial(apply, store, GroupChange(made.id, 2, gone=True), term=term),
            )
            assert await excess(store, made) == []
            row, left = await store.groups.get(made.id), await members(store, made)
            assert len(left) in (0, 3)
            assert not (row.gone_at and left)
            await apply(store, GroupChange(made.id, 2, terminate=tuple(one.id for one in left), gone=True))
            assert (await store.groups.get(made.id)).gone_at is not None


TAINTS = st.builds(Taint, st.text("abc", min_size=1, max_size=3), st.text("xy", max_size=2))
REQUIREMENTS = st.builds(
    Requirements,
    region=st.none() | st.text(min_size=1, max_size=5),
    labels=st.dictionaries(st.text("abc", min_size=1, max_size=3), st.text(max_size=3)).map(
        lambda found: tuple(sorted(found.items()))
    ),
    hypervisor=st.none() | st.sampled_from(["qemu", "firecracker"]),
    architecture=st.none() | st.just("x86_64"),
    tolerations=st.lists(TAINTS).map(tuple),
    strategy=st.none() | st.sampled_from(Strategy),
)


@given(REQUIREMENTS)
def test_requirements_come_back_as_they_were_kept(wanted: Requirements) -> None:
    assert requirements_from_json(requirements_to_json(wanted)) == wanted


@given(
    st.builds(
        NewInstance,
        image_id=st.uuids(),
        resources=st.builds(Resources, st.integers(1, 99), st.integers(32, 999), st.integers(32, 999)),
        default_port=st.integers(1, 65535),
        environment=st.dictionaries(st.text(max_size=3), st.text(max_size=3)),
        command=st.lists(st.text(max_size=3)).map(tuple),
        stop_timeout=st.floats(0, 3600),
        restart=st.builds(RestartPolicy, st.sampled_from(RestartMode), st.none() | st.integers(1, 9)),
        health=st.just(HealthCheck()) | st.builds(HealthCheck, st.just(HealthType.TCP), port=st.none() | st.just(3)),
        priority=st.integers(0, 100),
        singleton=st.booleans(),
        requirements=REQUIREMENTS,
    )
)
def test_a_template_comes_back_as_it_was_kept(template: NewInstance) -> None:
    assert template_from_json(template_to_json(template), template.image_id) == template
