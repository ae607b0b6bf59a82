from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
import trio

from actors.images.actor import Images
from actors.images.messages import Collect, EnsureRoot, Usage, Wake
from actors.images.retry import RetryPolicy
from actors.images.settings import ImageSettings
from actors.model.errors import NotFound, Problem, Unavailable
from actors.model.image import ImageConfig
from actors.model.paths import HostPaths
from actors.model.records import ImageRecord
from actors.model.states import ImageStatus
from runtime import LifeRef, Spec, System
from tests.actors.images import craft, servers
from tests.actors.images.craft import Image, docker_save, file, tar

NODE = UUID(int=1)
IMAGE = Image([tar(file("hello", b"hi"))])
QUICK = ImageSettings(policy=RetryPolicy(attempts=2, first=0.01))


class MemoryStore:
    """Images in a dictionary. ``broken`` methods fail as if Postgres were away."""

    def __init__(self) -> None:
        self.records: dict[UUID, ImageRecord] = {}
        self.problems: dict[UUID, tuple[str, str | None, str | None]] = {}
        self.told: dict[UUID, list[tuple[int, str]]] = {}
        self.broken: dict[str, int] = {}
        self.cached: list[frozenset[str]] = []
        self.most_building = 0
        self._changed = trio.Event()

    def add(self, number: int, source: str, status: ImageStatus = ImageStatus.PENDING) -> UUID:
        record = ImageRecord(UUID(int=number), source, status)
        self._set(record)
        return record.id

    def _set(self, record: ImageRecord) -> None:
        self.records[record.id] = record
        building = sum(item.status is ImageStatus.BUILDING for item in self.records.values())
        self.most_building = max(self.most_building, building)
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, check: Callable[[], bool]) -> None:
        with trio.fail_after(120):
            while not check():
                await self._changed.wait()

    async def ended(self, image_id: UUID) -> ImageRecord:
        await self.until(lambda: self.records[image_id].status in (ImageStatus.READY, ImageStatus.FAILED))
        return self.records[image_id]

    async def _meet(self, method: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.broken.get(method, 0) > 0:
            self.broken[method] -= 1
            raise Unavailable("Postgres is away")

    async def claim_pending(self, node_id: UUID) -> ImageRecord | None:
        await self._meet("claim_pending")
        for record in self.records.values():
            if record.status is ImageStatus.PENDING:
                self._set(replace(record, status=ImageStatus.BUILDING))
                return self.records[record.id]
        return None

    async def reclaim(self, node_id: UUID) -> int:
        await self._meet("reclaim")
        stale = [record for record in self.records.values() if record.status is ImageStatus.BUILDING]
        for record in stale:
            self._set(replace(record, status=ImageStatus.PENDING))
        return len(stale)

    async def progress(self, image_id: UUID, percent: int, message: str) -> None:
        await self._meet("progress")
        self.told.setdefault(image_id, []).append((percent, message))

    async def ready(self, image_id: UUID, digest: str, config: ImageConfig, size: int) -> None:
        await self._meet("ready")
        self._set(replace(self.records[image_id], status=ImageStatus.READY, digest=digest, config=config, size=size))

    async def failed(self, image_id: UUID, error: str, field: str | None, fix: str | None) -> None:
        await self._meet("failed")
        self.problems[image_id] = (error, field, fix)
        self._set(replace(self.records[image_id], status=ImageStatus.FAILED, error=error))

    async def digests_in_use(self) -> set[str]:
        await self._meet("digests_in_use")
        return {record.digest for record in self.records.values() if record.digest}

    async def record_cached(self, node_id: UUID, digests: frozenset[str]) -> None:
        await self._meet("record_cached")
        assert node_id == NODE
        self.cached.append(digests)
        self._changed.set()
        self._changed = trio.Event()


@pytest.fixture
def paths(tmp_path: Path) -> HostPaths:
    made = HostPaths(tmp_path / "data", tmp_path / "run")
    made.spool.mkdir(parents=True)
    return made


@pytest.fixture
async def store() -> MemoryStore:
    return MemoryStore()


def upload(paths: HostPaths, data: bytes, name: str = "upload") -> str:
    (paths.spool / name).write_bytes(data)
    return f"archive:{paths.spool / name}"


def spooled(paths: HostPaths) -> list[Path]:
    return list(paths.spool.iterdir())


@asynccontextmanager
async def images(store: MemoryStore, paths: HostPaths, settings: ImageSettings = QUICK) -> AsyncIterator[LifeRef]:
    async with System() as system:
        yield await system.start(Spec("images", lambda: Images(store, NODE, paths, settings), restart="permanent"))


async def test_a_pending_image_becomes_ready_and_can_be_had(store: MemoryStore, paths: HostPaths) -> None:
    image = store.add(1, upload(paths, craft.archive(docker_save(IMAGE))))
    async with images(store, paths) as ref:
        record = await store.ended(image)
        assert record.status is ImageStatus.READY, record.error
        assert record.config is not None
        assert record.config.argv == ("/hello",)
        root = await ref.ask(EnsureRoot(str(record.digest)), timeout=60)
        assert root.digest == record.digest
        assert set(craft.read_squashfs(Path(root.rootfs))) >= {"hello"}
        usage = await ref.ask(Usage(), timeout=60)
        assert (usage.roots, usage.root_bytes > record.size, usage.blobs) == (1, True, 0)
        with pytest.raises(NotFound) as caught:
            await ref.ask(EnsureRoot("sha256:" + "0" * 64), timeout=60)
        assert caught.value.fix
    assert not spooled(paths)
    percents = [percent for percent, _ in store.told[image]]
    assert percents == sorted(percents)


async def test_a_wake_starts_what_came_later(store: MemoryStore, paths: HostPaths, tmp_path: Path) -> None:
    async with servers.registry(tmp_path / "registry") as host, images(store, paths) as ref:
        await servers.push(host, "app:v1", tmp_path, IMAGE)
        image = store.add(1, f"{host}/app:v1")
        ref.tell(Wake("notified"))
        record = await store.ended(image)
    assert (record.status, record.digest) == (ImageStatus.READY, craft.digest(IMAGE.manifest))


async def test_failures_are_written_with_field_and_fix(store: MemoryStore, paths: HostPaths) -> None:
    broken = store.add(1, upload(paths, b"not an archive" * 100))
    wrong = store.add(2, "Not/A/Reference")
    async with images(store, paths):
        for image in (broken, wrong):
            assert (await store.ended(image)).status is ImageStatus.FAILED
    assert store.problems[broken][1] == "archive"
    assert store.problems[wrong][1] == "reference"
    assert all(fix for _, _, fix in store.problems.values())
    assert not spooled(paths)


async def test_at_most_two_at_once_and_all_of_them_in_the_end(store: MemoryStore, paths: HostPaths) -> None:
    for number in range(6):
        data = craft.archive(docker_save(Image([tar(file(f"f{number}", random.Random(number).randbytes(200_000)))])))
        store.add(number + 1, upload(paths, data, f"upload{number}"))
    async with images(store, paths) as ref:
        for image in list(store.records):
            assert (await store.ended(image)).status is ImageStatus.READY
        assert (await ref.ask(Usage(), timeout=60)).roots == 6
    assert store.most_building == 2


async def test_what_was_broken_off_is_taken_up_again(store: MemoryStore, paths: HostPaths) -> None:
    image = store.add(1, upload(paths, craft.archive(docker_save(IMAGE))), ImageStatus.BUILDING)
    half_done = paths.images / "work" / "dead"
    half_done.mkdir(parents=True)
    async with images(store, paths):
        assert (await store.ended(image)).status is ImageStatus.READY
    assert not half_done.exists()


async def test_stopping_in_the_middle_leaves_nothing_and_the_next_life_finishes(
    store: MemoryStore, paths: HostPaths
) -> None:
    noise = [file(f"noise{number}", random.Random(number).randbytes(4_000_000)) for number in range(8)]
    image = store.add(1, upload(paths, craft.pressed(craft.archive(docker_save(Image([tar(*noise)]))), "gzip")))
    async with images(store, paths):
        await store.until(lambda: store.records[image].status is ImageStatus.BUILDING)
    assert store.records[image].status is ImageStatus.BUILDING
    assert not list((paths.images / "work").iterdir())
    assert len(spooled(paths)) == 1
    async with images(store, paths):
        assert (await store.ended(image)).status is ImageStatus.READY
    assert not spooled(paths)


@pytest.mark.parametrize("method", ["reclaim", "claim_pending", "progress", "ready", "failed"])
async def test_postgres_away_for_a_while_costs_time_only(store: MemoryStore, paths: HostPaths, method: str) -> None:
    store.broken[method] = 1
    good = store.add(1, upload(paths, craft.archive(docker_save(IMAGE))))
    bad = store.add(2, upload(paths, b"x" * 600, "bad"))
    async with images(store, paths):
        assert (await store.ended(good)).status is ImageStatus.READY
        assert (await store.ended(bad)).status is ImageStatus.FAILED
    assert store.broken[method] == 0
    assert not spooled(paths)


async def test_collecting_keeps_what_is_in_use(store: MemoryStore, paths: HostPaths) -> None:
    image = store.add(1, upload(paths, craft.archive(docker_save(IMAGE))))
    async with images(store, paths, replace(QUICK, root_age=0.0)) as ref:
        digest = str((await store.ended(image)).digest)
        await collected(ref, store)
        await collected(ref, store)  # begins when the first one has ended
        assert (await ref.ask(Usage(), timeout=60)).roots == 1
        del store.records[image]
        await collected(ref, store)
        with trio.fail_after(90):
            while (await ref.ask(Usage(), timeout=60)).roots:
                await trio.lowlevel.checkpoint()
        with pytest.raises(Problem):
            await ref.ask(EnsureRoot(digest), timeout=60)


async def test_what_is_in_the_cache_is_told_when_it_changes(store: MemoryStore, paths: HostPaths) -> None:
    store.broken["record_cached"] = 1  # told again by the next look
    async with images(store, paths, replace(QUICK, root_age=0.0)) as ref:
        image = store.add(1, upload(paths, craft.archive(docker_save(IMAGE))))
        ref.tell(Wake("test"))
        digest = str((await store.ended(image)).digest)
        await store.until(lambda: store.cached[-1:] == [frozenset({digest})])
        # The same content again is another image of the database: told again.
        told = len(store.cached)
        again = store.add(2, upload(paths, craft.archive(docker_save(IMAGE)), "again"))
        ref.tell(Wake("test"))
        await store.ended(again)
        await store.until(lambda: len(store.cached) > told)
        del store.records[image], store.records[again]
        await collected(ref, store)
        await store.until(lambda: store.cached[-1] == frozenset())
    assert store.broken["record_cached"] == 0


async def collected(ref: LifeRef, store: MemoryStore) -> None:
    asked = trio.Event()
    inner = store.digests_in_use

    async def watched() -> set[str]:
        asked.set()
        return await inner()

    store.digests_in_use = watched  # type: ignore[method-assign]
    ref.tell(Collect("test"))
    with trio.fail_after(90):
        await asked.wait()
    store.digests_in_use = inner  # type: ignore[method-assign]


async def test_sources_outside_of_the_spool_are_neither_read_nor_removed(
    store: MemoryStore, paths: HostPaths, tmp_path: Path
) -> None:
    outside = tmp_path / "precious.tar"
    outside.write_bytes(craft.archive(docker_save(IMAGE)))
    image = store.add(1, f"archive:{outside}")
    async with images(store, paths):
        assert (await store.ended(image)).status is ImageStatus.FAILED
    assert outside.exists()
