"""Images: asked for, claimed, ready or failed, deleted only when nobody uses them."""

from __future__ import annotations

from uuid import uuid4

import pytest
import trio

from actors.model.errors import Conflict, NotFound
from actors.model.states import ImageStatus
from tests.zeitwork.store.moving import die
from tests.zeitwork.store.world import CONFIG, STOPPED, heeded, instance, place, ready_image, ready_node, see
from zeitwork.store import Store
from zeitwork.store.notifications import Wake


async def test_the_way_of_an_image(store: Store) -> None:
    node = await ready_node(store)
    asked = await store.images.create("registry.example/app:1")
    assert (asked.status, asked.percent, asked.node_id, asked.digest) == (ImageStatus.PENDING, 0, None, None)
    claimed = await store.images.claim_pending(node.id)
    assert claimed is not None
    assert (claimed.id, claimed.source, claimed.status) == (asked.id, asked.source, ImageStatus.BUILDING)
    await store.images.progress(asked.id, 40, "pulling 2 of 5 layers")
    half = await store.images.get(asked.id)
    assert (half.status, half.percent, half.message) == (ImageStatus.BUILDING, 40, "pulling 2 of 5 layers")
    await store.images.ready(asked.id, "sha256:1", CONFIG, 12345)
    await store.images.ready(asked.id, "sha256:1", CONFIG, 12345)
    done = await store.images.get(asked.id)
    assert (done.status, done.percent, done.digest, done.config, done.size) == (
        ImageStatus.READY, 100, "sha256:1", CONFIG, 12345,
    )  # fmt: skip
    statuses = [row.status for row in await store.images.history(asked.id)]
    assert statuses == [ImageStatus.PENDING, ImageStatus.BUILDING, ImageStatus.READY]
    assert await store.images.digests_in_use() == {"sha256:1"}


async def test_a_failure_keeps_its_words(store: Store) -> None:
    node = await ready_node(store)
    image = await store.images.create("nowhere.example/app")
    await store.images.claim_pending(node.id)
    await store.images.failed(image.id, "no such host", "reference", "check the name")
    row = await store.images.get(image.id)
    assert (row.status, row.error, row.error_field, row.error_fix) == (
        ImageStatus.FAILED, "no such host", "reference", "check the name",
    )  # fmt: skip
    assert (await store.images.history(image.id))[-1].message == "no such host"
    assert await store.images.claim_pending(node.id) is None


async def test_each_image_is_claimed_once_and_the_oldest_first(store: Store) -> None:
    node = await ready_node(store)
    asked = [(await store.images.create(f"app:{number}")).id for number in range(12)]
    claimed = []

    async def worker() -> None:
        while (record := await store.images.claim_pending(node.id)) is not None:
            claimed.append(record.id)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(worker)
    assert sorted(claimed) == sorted(asked)
    assert len(set(claimed)) == 12


async def test_what_a_dead_host_was_building_is_pending_again(store: Store) -> None:
    node, other = await ready_node(store), await ready_node(store)
    mine, theirs = await store.images.create("a"), await store.images.create("b")
    await store.images.claim_pending(node.id)
    await store.images.claim_pending(other.id)
    assert await store.images.reclaim(node.id) == 1
    assert await store.images.reclaim(node.id) == 0
    assert (await store.images.get(mine.id)).status is ImageStatus.PENDING
    assert (await store.images.get(theirs.id)).status is ImageStatus.BUILDING


async def test_an_upload_is_claimed_by_the_host_that_has_it_only(store: Store) -> None:
    node, other = await ready_node(store), await ready_node(store)
    upload = await store.images.create("archive:/spool/1_app.tar", node_id=node.id)
    assert (upload.status, upload.node_id) == (ImageStatus.PENDING, node.id)
    anyone = await store.images.create("registry.example/app:1")
    claimed = await store.images.claim_pending(other.id)
    assert claimed is not None
    assert claimed.id == anyone.id
    assert await store.images.claim_pending(other.id) is None
    for _ in range(2):  # also when its host died over it
        claimed = await store.images.claim_pending(node.id)
        assert claimed is not None
        assert claimed.id == upload.id
        assert await store.images.reclaim(node.id) == 1
        assert (await store.images.get(upload.id)).node_id == node.id
        assert await store.images.claim_pending(other.id) is None


async def test_what_a_dead_host_was_pulling_is_taken_over_by_another_one(store: Store) -> None:
    node, other = await ready_node(store), await ready_node(store)
    upload = await store.images.create("archive:/spool/1_app.tar", node_id=node.id)
    image = await store.images.create("registry.example/app:1")
    for _ in range(2):
        assert await store.images.claim_pending(node.id)
    assert await store.images.claim_pending(other.id) is None
    await die(store, node)
    claimed = await store.images.claim_pending(other.id)
    assert claimed is not None
    assert (claimed.id, (await store.images.get(image.id)).node_id) == (image.id, other.id)
    assert await store.images.claim_pending(other.id) is None  # neither the upload, nor its own again
    # Back again, the first one has only what is its own still.
    assert await store.images.reclaim(node.id) == 1
    assert (await store.images.get(upload.id)).status is ImageStatus.PENDING
    assert (await store.images.get(image.id)).status is ImageStatus.BUILDING


async def test_one_in_use_is_not_deleted(store: Store) -> None:
    node = await ready_node(store)
    image = await ready_image(store, node)
    row = await instance(store, image, name="web")
    assert (await store.images.get(image.id)).used_by == 1
    with pytest.raises(Conflict) as caught:
        await store.images.delete(image.id)
    assert "web" in caught.value.detail
    placement = await place(store, row, node)
    await store.instances.delete(row.id)
    with pytest.raises(Conflict):
        await store.images.delete(image.id)  # it still runs
    await see(store, placement, STOPPED)
    gone = await store.images.delete(image.id)
    assert gone.deleted_at is not None
    assert (await store.images.delete(image.id)).deleted_at == gone.deleted_at
    assert (await store.images.list()).items == ()
    assert await store.images.digests_in_use() == set()


async def test_deleting_and_using_one_at_once_never_both_succeed(store: Store) -> None:
    node = await ready_node(store)
    for _ in range(10):
        image = await ready_image(store, node)
        outcomes: list[str] = []

        async def use() -> None:
            try:
                await instance(store, image)  # noqa: B023
            except Exception as error:
                outcomes.append(type(error).__name__)  # noqa: B023

        async def delete() -> None:
            try:
                await store.images.delete(image.id)  # noqa: B023
            except Conflict as error:
                outcomes.append(type(error).__name__)  # noqa: B023

        async with trio.open_nursery() as nursery:
            nursery.start_soon(use)
            nursery.start_soon(delete)
        assert outcomes in (["InvalidInput"], ["Conflict"])


async def test_lists_by_status(store: Store) -> None:
    node = await ready_node(store)
    ready = await ready_image(store, node)
    await store.images.create("later")
    assert [row.id for row in (await store.images.list(status=ImageStatus.READY)).items] == [ready.id]
    assert len((await store.images.list()).items) == 2


async def test_creating_twice_makes_one(store: Store) -> None:
    identifier = uuid4()
    first = await store.images.create("app", id=identifier)
    assert await store.images.create("app", id=identifier) == first
    assert len(await store.images.history(identifier)) == 1


async def test_a_stranger_is_not_found(store: Store) -> None:
    for call in (store.images.get, store.images.delete, store.images.history):
        with pytest.raises(NotFound):
            await call(uuid4())


async def test_the_scheduler_sees_which_hosts_have_an_image_in_their_cache(store: Store) -> None:
    first, second = await ready_node(store), await ready_node(store)
    images = [await ready_image(store, first, f"registry.example/app:{tag}") for tag in (1, 2)]
    waiting = [await instance(store, image) for image in images]
    digests = [str(image.digest) for image in images]
    for node, cached in ((first, digests), (second, digests[:1]), (second, [*digests[:1], "sha256:unknown"])):
        await store.images.record_cached(node.id, frozenset(cached))
    pending = await store.scheduling.pending()
    assert [one.id for one in pending.instances] == [row.id for row in waiting]
    assert pending.images == {images[0].id: {first.id, second.id}, images[1].id: {first.id}}
    await store.images.record_cached(first.id, frozenset())
    assert (await store.scheduling.pending()).images == {images[0].id: {second.id}}
    await store.images.record_cached(uuid4(), frozenset(digests))  # a host that is not known any more


async def test_an_upload_is_where_it_was_made_at_once_and_where_else_it_is_uploaded_to(store: Store) -> None:
    node, other = await ready_node(store), await ready_node(store)
    image = await store.images.create("archive:/spool/1_app.tar", node_id=node.id)
    row = await instance(store, image)
    (waiting,) = (await store.scheduling.pending()).instances
    assert waiting.image_nodes == frozenset()
    assert await store.images.claim_pending(node.id)
    await store.images.ready(image.id, "sha256:1", CONFIG, 1)
    (waiting,) = (await store.scheduling.pending()).instances
    assert (waiting.id, waiting.image_nodes) == (row.id, {node.id})
    # The same content again is another image, and the host that it was sent to has both from now on.
    again = await store.images.create("archive:/spool/2_app.tar", node_id=other.id)
    assert await store.images.claim_pending(other.id)
    await store.images.ready(again.id, "sha256:1", CONFIG, 1)
    with store.notifications.subscribe("zw_instances") as hints:
        await heeded(store, hints, "zw_instances")
        await store.images.record_cached(other.id, frozenset({"sha256:1"}))
        with trio.fail_after(60):
            assert await hints.wait() == Wake(frozenset({str(row.id)}))
    (waiting,) = (await store.scheduling.pending()).instances
    assert waiting.image_nodes == {node.id, other.id}
    # What is in a registry can be fetched by everyone.
    await instance(store, await ready_image(store, node))
    assert [one.image_nodes for one in (await store.scheduling.pending()).instances] == [{node.id, other.id}, None]


async def test_a_host_is_told_what_the_image_of_a_placement_was_made_from(store: Store) -> None:
    node = await ready_node(store)
    image = await ready_image(store, node, "registry.example/app:1")
    placement = await place(store, await instance(store, image), node)
    assert (placement.image_source, placement.image_digest) == ("registry.example/app:1", image.digest)
