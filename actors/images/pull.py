"""From a source to a root filesystem in the cache: the whole way of one image."""

from __future__ import annotations

import importlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from actors.images.archive import LocalImage, open_archive, pair_layers
from actors.images.blobs import Blobs
from actors.images.cache import ROOTFS, RootCache, remove
from actors.images.config import parse_config
from actors.images.credentials import credentials_for
from actors.images.decompress import Slice
from actors.images.digest import checked_digest
from actors.images.layers import merge, stream
from actors.images.locks import KeyedLocks
from actors.images.manifest import Descriptor, Manifest
from actors.images.problems import FULL_DISK, ImageRefused, RegistryUnavailable, full_disk, is_full_disk
from actors.images.progress import Progress
from actors.images.reference import Reference, parse_reference
from actors.images.rootfs import pack
from actors.images.settings import ImageSettings
from actors.model.errors import Failed, InvalidInput, NotFound, Problem
from actors.model.image import ImageConfig, RootImage, is_upload
from actors.model.paths import HostPaths

if TYPE_CHECKING:
    from actors.images.registry import Registry

#: What stands before the path of a spooled archive in an image's source.
ARCHIVE = "archive:"
_CLEAN_UP = 30.0


@dataclass(frozen=True, slots=True)
class Pulled:
    """An image that is ready on this host; ``size`` in bytes of its squashfs."""

    digest: str
    config: ImageConfig
    size: int


class Puller:
    """Makes images ready. Pulls may run side by side; the same blob or root is worked on once at a time."""

    def __init__(self, paths: HostPaths, settings: ImageSettings, randomness: random.Random) -> None:
        self.cache = RootCache(paths.images)
        self.blobs = Blobs(self.cache.blobs)
        self._paths = paths
        self._settings = settings
        self._random = randomness
        self._locks = KeyedLocks()
        self._pinned: Counter[str] = Counter()
        self._kept: dict[str, float] = {}

    def keep(self, digest: str, until: float) -> None:
        """Collect this root at a later time than ``until`` (Unix seconds) only: a placement is on its way to it."""
        self._kept[digest] = max(until, self._kept.get(digest, until))

    def use(self, digest: str) -> RootImage | None:
        """Return a root that is here, as one that was used now; for a worker thread."""
        found = self.cache.find(digest)
        if found is None:
            return None
        self.cache.touch(digest)
        return found[0]

    def is_pinned(self, digest: str) -> bool:
        """Return whether a pull is about to announce this digest: it must not be collected now."""
        return self._pinned[digest] > 0

    async def pull(self, source: str, progress: Progress) -> Pulled:
        """Make the image of a reference or of ``archive:<path>`` ready. Raises `Problem` and nothing else."""
        if is_upload(source):
            return await self._within(lambda: self._from_archive(self.spooled(source), progress), "archive")
        return await self._within(lambda: self._ask_registry(parse_reference(source), progress), "reference")

    async def fetch(self, source: str, digest: str, progress: Progress) -> RootImage:
        """Make the very manifest ready that another host was given for a reference; a tag may mean another one by now.

        Raises `Problem` and nothing else.
        """

        async def work() -> Pulled:
            return await self._ask_registry(
                replace(parse_reference(source), digest=checked_digest(digest, "the image")), progress
            )

        try:
            pulled = await self._within(work, "reference")
        except NotFound as error:
            error.fix = "push that very image again, or add the image anew and use that one"
            raise
        if pulled.digest != digest:
            raise ImageRefused(f"{digest} names several images, not one", field="reference", fix="add the image anew")
        found = await trio.to_thread.run_sync(self.cache.find, digest)
        if found is None:
            raise Failed(f"{self.cache.root(digest)} went away as it was made", fix="check that disk")
        return found[0]

    async def _within(self, work: Callable[[], Awaitable[Pulled]], field: str) -> Pulled:
        """Do ``work`` until the deadline; what was broken off by a full disk gives up its room."""
        try:
            with trio.fail_after(self._settings.pull_deadline):
                return await work()
        except ImageRefused as error:
            error.field = error.field or field
            raise
        except Failed as error:
            if error.code == FULL_DISK:
                await self._make_room()
            raise
        except trio.TooSlowError:
            raise Failed(
                f"getting the image took longer than {self._settings.pull_deadline:.0f} s",
                fix="try again: what was downloaded is kept for an hour",
            ) from None
        except OSError as error:
            if is_full_disk(error):
                await self._make_room()
                raise full_disk(self.cache.images) from error
            raise Failed(f"the image can't be stored: {error}", fix=f"check {self.cache.images}") from error

    def spooled(self, source: str) -> Path:
        """Return the file of an ``archive:`` source. Raises `InvalidInput` for one outside of the spool."""
        path = Path(source.removeprefix(ARCHIVE))
        if path.parent != self._paths.spool or path.name in ("", ".", "..") or path.is_symlink() or not path.is_file():
            raise InvalidInput("the uploaded archive is not there any more", field="archive", fix="upload it again")
        return path

    async def _from_archive(self, path: Path, progress: Progress) -> Pulled:
        progress.stage("reading the archive", 0, 25, _bytes_in(path))
        async with self._workspace() as work:
            image = await trio.to_thread.run_sync(
                open_archive, path, work, _checkpoint(progress), self._settings.limits
            )
            return await self._make(image, work, progress, 25)

    async def _ask_registry(self, reference: Reference, progress: Progress) -> Pulled:
        # The HTTP client takes a tenth of a second and megabytes: for hosts that need it, and beside the loop.
        for module in ("actors.images.registry", "actors.images.trust"):
            await trio.to_thread.run_sync(importlib.import_module, module)
        import httpx

        try:
            return await self._from_registry(reference, progress)
        except httpx.HTTPError as error:
            raise RegistryUnavailable(f"the registry failed: {error}", "try again later") from error

    async def _from_registry(self, reference: Reference, progress: Progress) -> Pulled:
        from actors.images.registry import Registry
        from actors.images.trust import tls_context

        settings = self._settings
        progress.stage(f"asking {reference.registry}", 0, 1, 0)
        credentials = await trio.to_thread.run_sync(credentials_for, reference.registry, settings.docker_config)
        async with Registry(
            reference,
            randomness=self._random,
            credentials=credentials,
            limits=settings.limits,
            policy=settings.policy,
            tls=await trio.to_thread.run_sync(tls_context),
        ) as registry:
            digest, manifest = await registry.resolve()
            with self._pin(digest):
                ready = await self._find(digest)
                if ready is not None:
                    return ready
                digests = [manifest.config.digest, *(layer.digest for layer in manifest.layers)]
                with self.blobs.hold(digests):
                    try:
                        image = await self._download(registry, digest, manifest, progress)
                        async with self._workspace() as work:
                            return await self._make(image, work, progress, 60)
                    except (ImageRefused, OSError) as error:
                        # Bad data, or no room for it: either way it is not worth keeping.
                        if isinstance(error, ImageRefused) or is_full_disk(error):
                            await self._discard(digests)
                        raise
                    except Failed as error:
                        if error.code == FULL_DISK:
                            await self._discard(digests)
                        raise

    async def _discard(self, digests: list[str]) -> None:
        with trio.move_on_after(_CLEAN_UP, shield=True):
            await trio.to_thread.run_sync(self.blobs.discard, digests)

    async def _download(self, registry: Registry, digest: str, manifest: Manifest, progress: Progress) -> LocalImage:
        progress.stage("downloading", 1, 60, manifest.size)
        limiter = trio.CapacityLimiter(self._settings.concurrent_downloads)
        descriptors = [manifest.config, *manifest.layers]
        found: dict[int, Slice] = {}
        failures: list[Exception] = []

        async def one(number: int, descriptor: Descriptor) -> None:
            try:
                async with limiter, self._locks.hold(descriptor.digest):
                    found[number] = await registry.blob(descriptor, self.blobs, progress.add)
            except Exception as error:  # the first one is raised below, outside of the nursery's group
                failures.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for number, descriptor in enumerate(descriptors):
                nursery.start_soon(one, number, descriptor)
        if failures:
            raise failures[0]
        slices = [found[number] for number in range(len(descriptors))]
        data = await trio.to_thread.run_sync(slices[0].read)
        parsed = await trio.to_thread.run_sync(parse_config, data, self._settings.limits)
        return LocalImage(digest, parsed.config, pair_layers(slices[1:], parsed))

    async def _make(self, image: LocalImage, work: Path, progress: Progress, percent: int) -> Pulled:
        limits, checkpoint = self._settings.limits, _checkpoint(progress)
        with self._pin(image.digest):
            async with self._locks.hold(f"root {image.digest}"):
                ready = await self._find(image.digest)
                if ready is not None:
                    return ready
                progress.stage("checking the layers", percent, percent + 15, image.size)
                tree = await trio.to_thread.run_sync(merge, image.layers, checkpoint, limits)
                progress.stage("making the root filesystem", percent + 15, 99, image.size)
                try:
                    size = await pack(
                        lambda: stream(image.layers, tree, checkpoint, limits),
                        work / ROOTFS,
                        deadline=self._settings.pack_deadline,
                    )
                finally:
                    with trio.CancelScope(shield=True):  # bounded by the limits on entries
                        await trio.to_thread.run_sync(tree.dismantle)
                await trio.to_thread.run_sync(self.cache.publish, work, image.digest, image.config, size)
                return Pulled(image.digest, image.config, size)

    async def _find(self, digest: str) -> Pulled | None:
        found = await trio.to_thread.run_sync(self.cache.find, digest)
        if found is None:
            return None
        await trio.to_thread.run_sync(self.cache.touch, digest)
        root, size = found
        return Pulled(digest, root.config, size)

    @contextmanager
    def _pin(self, digest: str) -> Iterator[None]:
        self._pinned[digest] += 1
        try:
            yield
        finally:
            self._pinned[digest] -= 1
            if not self._pinned[digest]:
                del self._pinned[digest]

    def _workspace(self) -> _Workspace:
        return _Workspace(self.cache)

    async def collect(self, in_use: set[str], now: float) -> tuple[int, int]:
        """Remove roots that no image needs, downloads beyond the bound and forgotten uploads.

        Returns how many roots and how many other files went.
        """
        settings = self._settings
        digests = await trio.to_thread.run_sync(
            lambda: self.cache.superfluous(in_use, older_than=settings.root_age, now=now)
        )
        # From the check to the rename nothing else runs, so nothing in use can be caught.
        self._kept = {digest: until for digest, until in self._kept.items() if until > now}
        free = [digest for digest in digests if not self.is_pinned(digest) and digest not in self._kept]
        roots = [self.cache.take(self.cache.root(digest)) for digest in free]
        files = await self._take_blobs(settings.blob_cache, now)
        forgotten = await trio.to_thread.run_sync(self._forgotten, now - settings.spool_age)
        for path in [*roots, *files, *forgotten]:
            await trio.to_thread.run_sync(remove, path)
        return len(roots), len(files) + len(forgotten)

    async def _take_blobs(self, most: int, now: float) -> list[Path]:
        paths = await trio.to_thread.run_sync(self.blobs.superfluous, most, now)
        return [self.cache.take(path) for path in paths if not self.blobs.is_held(path)]

    async def _make_room(self) -> None:
        """Give up all downloads that no pull needs now: they are only there to save time."""
        with trio.move_on_after(_CLEAN_UP, shield=True):
            for path in await self._take_blobs(0, 0.0):
                await trio.to_thread.run_sync(remove, path)

    def _forgotten(self, before: float) -> list[Path]:
        spool = self._paths.spool
        if not spool.is_dir():
            return []
        return [path for path in spool.iterdir() if path.is_file() and path.stat().st_mtime < before]


class _Workspace:
    """A directory of the cache's work area, removed at the end unless it was published by renaming."""

    def __init__(self, cache: RootCache) -> None:
        self._cache = cache

    async def __aenter__(self) -> Path:
        self._path = await trio.to_thread.run_sync(self._cache.workspace)
        return self._path

    async def __aexit__(self, *_details: object) -> None:
        with trio.move_on_after(_CLEAN_UP, shield=True):
            await trio.to_thread.run_sync(_remove_if_there, self._path)


def _remove_if_there(path: Path) -> None:
    if path.exists():
        remove(path)


def _bytes_in(path: Path) -> int:
    return path.stat().st_size


def _checkpoint(progress: Progress) -> Callable[[int], None]:
    def checkpoint(count: int) -> None:
        trio.from_thread.check_cancelled()
        progress.add(count)

    return checkpoint


def explain(error: Exception) -> Problem:
    """Return ``error`` as something that a person can act on."""
    if isinstance(error, Problem):
        return error
    return Failed(
        f"an unexpected error: {type(error).__name__}: {error}",
        fix="this is a fault of Zeitwork: please report it with the log around it",
    )
