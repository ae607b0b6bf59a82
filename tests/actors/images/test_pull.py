from __future__ import annotations

import json
import os
import random
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from actors.images.cache import CONFIG, ROOTFS
from actors.images.limits import Limits
from actors.images.progress import Progress
from actors.images.pull import Puller
from actors.images.retry import RetryPolicy
from actors.images.rootfs import pack
from actors.images.settings import ImageSettings
from actors.model.errors import Failed, InvalidInput, Problem
from actors.model.paths import HostPaths
from tests.actors.images import craft, servers
from tests.actors.images.craft import Image, docker_save, file, symlink, tar

IMAGE = Image([tar(file("hello", b"hi", mode=0o755)), tar(symlink("link", "hello"))], ["gzip", "zstd"])
SETTINGS = ImageSettings(policy=RetryPolicy(attempts=2, first=0.01))


@pytest.fixture
def paths(tmp_path: Path) -> HostPaths:
    return HostPaths(tmp_path / "data", tmp_path / "run")


def puller(paths: HostPaths, settings: ImageSettings = SETTINGS) -> Puller:
    made = Puller(paths, settings, random.Random(1))
    made.cache.prepare()
    return made


def upload(paths: HostPaths, data: bytes, name: str = "upload") -> str:
    paths.spool.mkdir(parents=True, exist_ok=True)
    (paths.spool / name).write_bytes(data)
    return f"archive:{paths.spool / name}"


def nothing_begun(paths: HostPaths) -> bool:
    return not list((paths.images / "work").iterdir()) and not list((paths.images / "blobs").iterdir())


class Watched(Progress):
    """Tells when a stage begins."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.begun = trio.Event()
        self._stage = stage

    def stage(self, message: str, first: int, last: int, total: int) -> None:
        super().stage(message, first, last, total)
        if message == self._stage:
            self.begun.set()


async def test_an_archive_becomes_a_root_filesystem(paths: HostPaths) -> None:
    made = puller(paths)
    progress = Progress()
    pulled = await made.pull(upload(paths, craft.archive(docker_save(IMAGE))), progress)
    assert pulled.digest == craft.digest(IMAGE.config)
    assert pulled.config.argv == ("/hello",)
    root = paths.images / pulled.digest[7:]
    assert sorted(path.name for path in root.iterdir()) == [CONFIG, ROOTFS]
    status = (root / ROOTFS).stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_size) == (0o444, os.getuid(), pulled.size)
    found = craft.read_squashfs(root / ROOTFS)
    assert (found["hello"].data, found["hello"].mode, found["link"].kind) == (b"hi", 0o755, tarfile.SYMTYPE)
    cached = made.cache.find(pulled.digest)
    assert cached is not None
    assert (cached[0].config, cached[0].rootfs, cached[1]) == (pulled.config, str(root / ROOTFS), pulled.size)
    assert progress.percent >= 40
    assert nothing_begun(paths)


async def test_a_registry_image_becomes_a_root_filesystem_once(paths: HostPaths, tmp_path: Path) -> None:
    made = puller(paths)
    async with servers.registry(tmp_path / "registry") as host:
        await servers.push(host, "app:v1", tmp_path, IMAGE)
        first = await made.pull(f"{host}/app:v1", Progress())
        stamp = (paths.images / first.digest[7:] / ROOTFS).stat()
        progress = Progress()
        assert await made.pull(f"{host}/app:v1", progress) == first
        assert progress.message == f"asking {host}", "nothing is downloaded or made again"
    assert first.digest == craft.digest(IMAGE.manifest)
    assert (paths.images / first.digest[7:] / ROOTFS).stat().st_mtime_ns == stamp.st_mtime_ns
    assert set(craft.read_squashfs(paths.images / first.digest[7:] / ROOTFS)) >= {"hello", "link"}


async def test_the_same_image_twice_at_once_is_made_once(paths: HostPaths, tmp_path: Path) -> None:
    made = puller(paths)
    results = []
    async with servers.registry(tmp_path / "registry") as host:
        await servers.push(host, "app:v1", tmp_path, IMAGE)

        async def one() -> None:
            results.append(await made.pull(f"{host}/app:v1", Progress()))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(one)
    assert len({pulled.digest for pulled in results}) == 1
    assert not list((paths.images / "work").iterdir())


@pytest.mark.parametrize(
    ("source", "field"),
    [
        ("No/Such", "reference"),
        ("archive:/etc/passwd", "archive"),
        ("archive:spool/../../x", "archive"),
        ("", "reference"),
    ],
)
async def test_bad_sources_name_their_field(paths: HostPaths, source: str, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await puller(paths).pull(source, Progress())
    assert caught.value.field == field
    assert caught.value.fix


async def test_only_the_spool_is_read(paths: HostPaths, tmp_path: Path) -> None:
    outside = tmp_path / "outside.tar"
    outside.write_bytes(craft.archive(docker_save(IMAGE)))
    paths.spool.mkdir(parents=True)
    (paths.spool / "link").symlink_to(outside)
    made = puller(paths)
    for source in (f"archive:{outside}", f"archive:{paths.spool}/link", f"archive:{paths.spool}/../../outside.tar"):
        with pytest.raises(InvalidInput):
            await made.pull(source, Progress())


async def test_a_refused_archive_leaves_nothing(paths: HostPaths) -> None:
    made = puller(paths)
    with pytest.raises(InvalidInput) as caught:
        await made.pull(upload(paths, craft.pressed(tar(craft.device("dev/x")), "gzip")), Progress())
    assert caught.value.field == "archive"
    assert nothing_begun(paths)


async def test_bad_layers_from_a_registry_are_not_kept(paths: HostPaths, tmp_path: Path) -> None:
    hostile = Image([tar(file("ok")), tar(craft.device("dev/null"))])
    made = puller(paths)
    async with servers.registry(tmp_path / "registry") as host:
        await servers.push(host, "app:v1", tmp_path, hostile)
        with pytest.raises(InvalidInput, match="device") as caught:
            await made.pull(f"{host}/app:v1", Progress())
    assert caught.value.field == "reference"
    assert nothing_begun(paths)


@contextmanager
def small_disk(where: Path, size: str) -> Iterator[None]:
    where.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(where)],
        capture_output=True,
        check=False,
        timeout=90,
    )
    if done.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(where)], check=True, timeout=90)


@pytest.mark.parametrize("how", ["plain", "gzip"])
async def test_a_full_disk_says_so_and_leaves_nothing(paths: HostPaths, how: str) -> None:
    big = Image([tar(file("noise", random.Random(1).randbytes(6_000_000)))])
    with small_disk(paths.images, "3m"):
        made = puller(paths)
        with pytest.raises(Failed) as caught:
            await made.pull(upload(paths, craft.pressed(craft.archive(docker_save(big)), how)), Progress())
        assert (caught.value.code, caught.value.field, caught.value.status) == ("full-disk", None, 507)
        assert str(paths.images) in caught.value.detail
        assert caught.value.fix
        assert nothing_begun(paths)


async def test_a_disk_that_fills_while_downloading_says_so(paths: HostPaths, tmp_path: Path) -> None:
    big = Image([tar(file("noise", random.Random(1).randbytes(6_000_000)))])
    async with servers.registry(tmp_path / "registry") as host:
        await servers.push(host, "app:v1", tmp_path, big)
        with small_disk(paths.images, "3m"):
            made = puller(paths)
            with pytest.raises(Failed) as caught:
                await made.pull(f"{host}/app:v1", Progress())
            assert caught.value.code == "full-disk"
            assert nothing_begun(paths)


async def test_a_full_disk_gives_up_downloads_that_only_save_time(paths: HostPaths) -> None:
    big = Image([tar(file("noise", random.Random(1).randbytes(6_000_000)))])
    with small_disk(paths.images, "3m"):
        made = puller(paths)
        idle, held = (paths.images / "blobs" / f"{number:064}" for number in (1, 2))
        idle.write_bytes(b"x")
        held.write_bytes(b"x")
        with made.blobs.hold([f"sha256:{held.name}"]), pytest.raises(Failed):
            await made.pull(upload(paths, craft.archive(docker_save(big))), Progress())
        assert (idle.exists(), held.exists()) == (False, True)


@pytest.mark.parametrize("stage", ["reading the archive", "checking the layers", "making the root filesystem"])
async def test_a_cancelled_pull_leaves_nothing(paths: HostPaths, stage: str) -> None:
    big = Image([tar(*(file(f"noise{number}", random.Random(number).randbytes(4_000_000)) for number in range(10)))])
    source = upload(paths, craft.pressed(craft.archive(docker_save(big)), "gzip"))
    made = puller(paths)
    progress = Watched(stage)
    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await made.pull(source, progress)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        with trio.fail_after(120):
            await progress.begun.wait()
        scope.cancel()
    assert scope.cancelled_caught
    assert nothing_begun(paths)
    assert not any(len(path.name) == 64 for path in paths.images.iterdir())
    assert not children()


def children() -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = entry.read_text().rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(rest.split()[1]) == os.getpid() and "tar2sqfs" in name:
            found.append(name)
    return found


def endless() -> Iterator[bytes]:
    while True:
        yield bytes(65536)


async def test_packing_has_a_deadline(tmp_path: Path) -> None:
    sleeper = tmp_path / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 1000\n")
    sleeper.chmod(0o755)
    target = tmp_path / "root"
    with pytest.raises(Failed, match="took longer"):
        await pack(endless, target, deadline=0.3, program=str(sleeper))
    assert not target.exists()


async def test_packing_reports_the_programs_own_words(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'no such compressor' >&2\nexit 7\n")
    broken.chmod(0o755)
    target = tmp_path / "root"
    for produce in (endless, lambda: iter([b"x"])):
        with pytest.raises(Failed, match="status 7: no such compressor"):
            await pack(produce, target, deadline=90, program=str(broken))
        assert not target.exists()
    with pytest.raises(Failed, match="tar2sqfs ended"):
        await pack(lambda: iter([b"this is no tar archive" * 100]), target, deadline=90)
    with pytest.raises(Failed, match="not installed") as caught:
        await pack(endless, target, deadline=90, program="no-such-program")
    assert "setup" in str(caught.value.fix)


async def test_what_producing_raises_comes_through(tmp_path: Path) -> None:
    def produce() -> Iterator[bytes]:
        yield bytes(1000)
        raise InvalidInput("no")

    with pytest.raises(InvalidInput, match="no"):
        await pack(produce, tmp_path / "root", deadline=90)
    assert not (tmp_path / "root").exists()


async def test_a_pull_has_a_deadline(paths: HostPaths) -> None:
    made = puller(paths, ImageSettings(pull_deadline=0.2))
    hanging = servers.Answer(200, {"Content-Length": "1000"}, b"", hang=True)
    async with servers.fake(lambda _: hanging) as here:
        with pytest.raises(Failed, match="took longer than"):
            await made.pull(f"{here.host}/app", Progress())
    assert nothing_begun(paths)


async def test_limits_apply_to_pulls(paths: HostPaths) -> None:
    zeros = Image([tar(file("zeros", bytes(20_000_000)))])
    made = puller(paths, ImageSettings(limits=Limits(unpacked=10_000_000)))
    with pytest.raises(Problem, match="more than 10000000 bytes"):
        await made.pull(upload(paths, craft.pressed(craft.archive(docker_save(zeros)), "gzip")), Progress())
    assert nothing_begun(paths)


async def test_preparing_removes_what_an_earlier_life_left(paths: HostPaths) -> None:
    left = paths.images / "work" / "half-done"
    left.mkdir(parents=True)
    (left / ROOTFS).write_bytes(b"x")
    puller(paths)
    assert nothing_begun(paths)


async def test_collecting_spares_what_is_used_young_or_pinned(paths: HostPaths) -> None:
    made = puller(paths)
    pulled = []
    for number in range(3):
        image = Image([tar(file(f"f{number}"))])
        pulled.append(await made.pull(upload(paths, craft.archive(docker_save(image))), Progress()))
    used, young, old = (item.digest for item in pulled)
    now = time.time()
    for digest in (used, old):
        os.utime(made.cache.root(digest), (now - 7200, now - 7200))
    forgotten = paths.spool / "forgotten"
    forgotten.write_bytes(b"x")
    os.utime(forgotten, (now - 100_000, now - 100_000))
    assert await made.collect({used}, now) == (1, 1)
    assert [made.cache.find(digest) is None for digest in (used, young, old)] == [False, False, True]
    assert not forgotten.exists()
    assert nothing_begun(paths)
    roots, size = made.cache.usage()
    assert (roots, size > 0) == (2, True)


async def test_a_damaged_root_counts_as_missing_and_is_replaced(paths: HostPaths) -> None:
    made = puller(paths)
    data = craft.archive(docker_save(IMAGE))
    pulled = await made.pull(upload(paths, data), Progress())
    root = made.cache.root(pulled.digest)
    for damage in (
        lambda: (root / CONFIG).write_text("{"),
        lambda: (root / CONFIG).write_text(json.dumps({"format": 1, "size": pulled.size, "config": {}})),
        lambda: (root / ROOTFS).unlink(),
        lambda: os.truncate(root / ROOTFS, 10),
    ):
        damage()
        assert made.cache.find(pulled.digest) is None
        assert await made.pull(upload(paths, data), Progress()) == pulled
        assert made.cache.find(pulled.digest) is not None
    assert made.cache.find("sha256:../../etc") is None
