"""An image that one host made ready, on another one: two real actors with a cache each, and a real registry."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
import trio

from actors.images import fetches
from actors.images.actor import Images
from actors.images.messages import EnsureRoot, Fetching, Usage
from actors.images.retry import RetryPolicy
from actors.images.settings import ImageSettings
from actors.model.errors import NotFound, Problem
from actors.model.image import RootImage
from actors.model.paths import HostPaths
from actors.model.states import ImageStatus
from runtime import LifeRef, Spec, System
from tests.actors.images import craft, servers
from tests.actors.images.craft import Image, docker_save, file, tar
from tests.actors.images.test_actor import MemoryStore, collected, upload

IMAGE = Image([tar(file("hello", b"hi"))])
OTHER = Image([tar(file("hello", b"another one"))])
QUICK = ImageSettings(policy=RetryPolicy(attempts=2, first=0.01), docker_config=None)
ABSENT = "sha256:" + "0" * 64


class Store(MemoryStore):
    """Images of hosts of any name."""

    async def record_cached(self, node_id: UUID, digests: frozenset[str]) -> None:
        self.cached.append(digests)
        self._changed.set()
        self._changed = trio.Event()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetches, "SIGN", 0.05)
    monkeypatch.setattr("actors.images.actor.SIGN", 0.05)
    monkeypatch.setattr(fetches, "RETRY_FIRST", 0.05)


@pytest.fixture
async def store() -> Store:
    return Store()


@asynccontextmanager
async def host(
    store: MemoryStore, where: Path, number: int, settings: ImageSettings = QUICK
) -> AsyncIterator[tuple[LifeRef, HostPaths]]:
    paths = HostPaths(where / f"data{number}", where / f"run{number}")
    paths.spool.mkdir(parents=True, exist_ok=True)
    async with System() as system:
        spec = Spec("images", lambda: Images(store, UUID(int=number), paths, settings), restart="permanent")
        yield await system.start(spec), paths


def content(found: RootImage) -> bytes:
    return Path(found.rootfs).read_bytes()


async def root(ref: LifeRef, digest: str, source: str) -> tuple[RootImage, list[str]]:
    """Ask until it is here, as a machine does; return what was said meanwhile, too."""
    said: list[str] = []
    with trio.fail_after(120):
        while True:
            answer = await ref.ask(EnsureRoot(digest, source), timeout=90)
            if isinstance(answer, RootImage):
                return answer, said
            said.append(answer.reason)


async def prepared(store: MemoryStore, where: Path, source: str, number: int = 1) -> tuple[str, bytes]:
    """Have a first host make an image ready; return its digest and its root filesystem."""
    image = store.add(number, source)
    async with host(store, where, 1) as (ref, _):
        record = await store.ended(image)
        assert record.status is ImageStatus.READY, record.error
        found, said = await root(ref, str(record.digest), source)
        assert said == []
        return str(record.digest), content(found)


async def test_another_host_gets_the_same_bytes_although_the_tag_moved(store: Store, tmp_path: Path) -> None:
    async with servers.registry(tmp_path / "registry") as registry:
        await servers.push(registry, "app:v1", tmp_path, IMAGE)
        source = f"{registry}/app:v1"
        digest, data = await prepared(store, tmp_path, source)
        await servers.push(registry, "app:v1", tmp_path / "moved", OTHER)
        async with host(store, tmp_path, 2) as (ref, paths):
            found, _ = await root(ref, digest, source)
            assert (found.digest, found.config.argv) == (digest, ("/hello",))
            assert found.rootfs.startswith(str(paths.images))
            assert content(found) == data
            await store.until(lambda: store.cached[-1] == {digest})  # the scheduler hears of it
            assert list((paths.images / "work").iterdir()) == []
    # Once it is here no registry is needed.
    async with host(store, tmp_path, 2) as (ref, _):
        assert await root(ref, digest, source) == (found, [])


async def test_one_download_for_all_that_wait(store: Store, tmp_path: Path) -> None:
    async with servers.registry(tmp_path / "registry") as registry, servers.cutter(registry, 0, 0) as through:
        await servers.push(registry, "app:v1", tmp_path, IMAGE)
        digest, _ = await prepared(store, tmp_path, f"{registry}/app:v1")
        found: list[RootImage] = []

        async def wait(ref: LifeRef) -> None:
            found.append((await root(ref, digest, f"{through.host}/app:v1"))[0])

        async with host(store, tmp_path, 2) as (ref, _), trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(wait, ref)
    assert len(found) == 20
    assert len({one.rootfs for one in found}) == 1
    assert through.requests.count(b"/manifests/") == 1
    assert through.requests.count(b"/blobs/") == 2  # configuration and layer


async def test_what_was_broken_off_goes_on_where_it_was(store: Store, tmp_path: Path) -> None:
    noise = Image([tar(file("noise", random.Random(1).randbytes(6_000_000)))])
    async with servers.registry(tmp_path / "registry") as registry, servers.cutter(registry, 3_000_000, 3) as through:
        await servers.push(registry, "app:v1", tmp_path, noise)
        digest, data = await prepared(store, tmp_path, f"{registry}/app:v1")
        async with host(store, tmp_path, 2) as (ref, _):
            found, _ = await root(ref, digest, f"{through.host}/app:v1")
        assert content(found) == data
    assert b"range: bytes=" in through.requests.lower()


async def test_a_registry_that_is_away_is_waited_for_and_its_words_are_told(store: Store, tmp_path: Path) -> None:
    async with servers.registry(tmp_path / "registry") as registry, servers.cutter(registry, 0, 10_000) as through:
        await servers.push(registry, "app:v1", tmp_path, IMAGE)
        digest, _ = await prepared(store, tmp_path, f"{registry}/app:v1")
        async with host(store, tmp_path, 2) as (ref, _):
            with trio.fail_after(120):
                while True:
                    answer = await ref.ask(EnsureRoot(digest, f"{through.host}/app:v1"), timeout=90)
                    assert isinstance(answer, Fetching)
                    if f"registry {through.host} can't be reached" in answer.reason:
                        break
            through.times = 0
            await root(ref, digest, f"{through.host}/app:v1")


async def test_what_the_registry_refuses_fails_in_its_words(store: Store, tmp_path: Path) -> None:
    where = tmp_path / "closed"
    where.mkdir()
    (where / "htpasswd").write_text(servers.HTPASSWD)
    auth = f"auth: {{htpasswd: {{realm: here, path: {where}/htpasswd}}}}\n"
    async with (
        servers.registry(tmp_path / "open") as registry,
        servers.registry(where, auth) as closed,
        host(store, tmp_path, 2) as (ref, _),
    ):
        with pytest.raises(NotFound) as absent:
            await root(ref, ABSENT, f"{registry}/app:v1")
        with pytest.raises(Problem) as denied:
            await root(ref, "sha256:" + "1" * 64, f"{closed}/app:v1")
        with pytest.raises(Problem) as malformed:
            await root(ref, "sha256:../../etc", f"{registry}/app:v1")
    assert f"registry {registry} has no image" in absent.value.detail
    assert "that very image" in str(absent.value.fix)
    assert closed in denied.value.detail
    assert "login" in str(denied.value.fix)
    assert "no sha256 digest" in malformed.value.detail


async def test_an_upload_is_only_where_it_was_sent_to(store: Store, tmp_path: Path) -> None:
    paths = HostPaths(tmp_path / "data1", tmp_path / "run1")
    paths.spool.mkdir(parents=True)
    source = upload(paths, craft.archive(docker_save(IMAGE)))
    digest, _ = await prepared(store, tmp_path, source)
    async with host(store, tmp_path, 2) as (ref, _):
        with pytest.raises(NotFound) as caught:
            await root(ref, digest, source)
    assert "upload it to this host too" in str(caught.value.fix)


async def test_what_a_placement_is_on_its_way_to_is_not_collected(store: Store, tmp_path: Path) -> None:
    async with servers.registry(tmp_path / "registry") as registry:
        await servers.push(registry, "app:v1", tmp_path, IMAGE)
        source = f"{registry}/app:v1"
        digest, _ = await prepared(store, tmp_path, source)
        store.records.clear()  # nothing is in use, says the database
        async with host(store, tmp_path, 2, replace(QUICK, root_age=0.0)) as (ref, _):
            found, _ = await root(ref, digest, source)
            await collected(ref, store)
            await collected(ref, store)  # begins when the first one has ended
            assert (await ref.ask(Usage(), timeout=60)).roots == 1
            assert content(found)


async def test_what_nobody_waits_for_any_more_is_given_up(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetches, "UNASKED", 0.2)
    hanging = servers.Answer(body=b"{", headers={"Content-Length": "100"}, hang=True)
    async with servers.fake(lambda _: hanging) as registry, host(store, tmp_path, 2) as (ref, _):
        answer = await ref.ask(EnsureRoot(ABSENT, f"{registry.host}/app:v1"), timeout=90)
        assert answer == Fetching("fetching its image: 0 %")
        with trio.fail_after(90):
            while (await ref.ask(Usage(), timeout=60)).pulling:
                await trio.lowlevel.checkpoint()
