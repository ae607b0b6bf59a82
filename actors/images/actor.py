"""The images actor: takes images that were asked for, makes them ready, and answers who needs one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import trio

from actors.images.cache import RootCache
from actors.images.fetches import SIGN, Fetch, Fetches
from actors.images.messages import Collect, EnsureRoot, ImageUsage, Usage, Wake
from actors.images.progress import Progress
from actors.images.pull import ARCHIVE, Pulled, Puller, explain
from actors.images.settings import ImageSettings
from actors.images.store import ImageStore
from actors.model.errors import NotFound, Problem, Unavailable
from actors.model.image import RootImage, is_upload
from actors.model.paths import HostPaths
from actors.model.records import ImageRecord
from runtime import Actor, Effect, Message, Reply, TooManyEffects

T = TypeVar("T")

#: Seconds between looks that nobody asked for, and between collections.
SLOW_TIMER, COLLECT_TIMER = 15.0, 600.0
#: Seconds between two notes of progress.
PROGRESS_EVERY = 0.5
_STORE_DEADLINE = 15.0
_READ_DEADLINE = 30.0
_CLEAN_UP = 4.0
#: Seconds for which a root that was asked for is not collected, whatever the database said before.
_KEEP = 600.0
_BACKOFF_FIRST, _BACKOFF_MAX = 0.5, 15.0


@dataclass(frozen=True, slots=True)
class _Reclaimed(Message):
    count: int


@dataclass(frozen=True, slots=True)
class _Claimed(Message):
    record: ImageRecord | None


@dataclass(frozen=True, slots=True)
class _StoreFailed(Message):
    error: Exception


@dataclass(frozen=True, slots=True)
class _PullEnded(Message):
    image_id: UUID
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Answer(Message):
    reply: Reply
    value: ImageUsage | None = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Looked(Message):
    """Whether the root that somebody asked for is here."""

    request: EnsureRoot
    reply: Reply
    root: RootImage | None


@dataclass(frozen=True, slots=True)
class _Fetched(Message):
    fetch: Fetch
    root: RootImage | None = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Signs(Message):
    """It is time to tell how far fetches are."""


@dataclass(frozen=True, slots=True)
class _CollectEnded(Message):
    roots: int = 0
    files: int = 0
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Told(Message):
    error: Exception | None = None


class Images(Actor):
    """Pulls run as effects, a few at once. Postgres knows what is asked for; a restart takes up what was broken off."""

    def __init__(
        self, store: ImageStore, node_id: UUID, paths: HostPaths, settings: ImageSettings | None = None
    ) -> None:
        self._store = store
        self._node_id = node_id
        self._paths = paths
        self._settings = settings or ImageSettings()
        self._active: set[UUID] = set()
        self._fetches = Fetches(self._settings.concurrent_fetches)
        self._fetching: dict[Fetch, Effect] = {}
        self._signing = False
        self._busy = False  # a claim or reclaim is under way
        self._again = False
        self._reclaim_due = True
        self._failures = 0
        self._collecting = self._collect_again = False
        self._telling = False
        self._changed = True  # what is in the cache, since it was told

    async def init(self) -> None:
        """Clean up after an earlier life, then look for work."""
        self._puller = Puller(self._paths, self._settings, self.ctx.env.random)
        await trio.to_thread.run_sync(self._puller.cache.prepare)
        self.ctx.every(SLOW_TIMER, Wake())
        self.ctx.every(COLLECT_TIMER, Collect())
        self.ctx.ref.tell(Wake("start"))

    async def receive(self, message: Message) -> None:
        """Start effects and take note of how they ended."""
        match message:
            case Wake():
                self._look()
                self._tell()
            case Collect():
                self._collect()
            case EnsureRoot():
                self._ensure(message)
            case _Looked(request=request, reply=reply, root=root):
                self._looked(request, reply, root)
            case _Fetched():
                self._fetched(message)
            case _Signs():
                self._sign()
            case Usage():
                reply = self.ctx.reply_slot()
                self._read(reply, self._usage, partial(_Answer, reply), "usage")
            case _Answer(reply=reply, value=value, error=error):
                if error is None:
                    reply.reply(value)
                else:
                    reply.fail(error)
            case _Reclaimed(count=count):
                if count:
                    self.ctx.log.info("images that were broken off are taken up again", count=count)
                self._reclaim_due = self._busy = False
                self._failures = 0
                self._look()
            case _Claimed(record=record):
                self._busy = False
                self._failures = 0
                if record is not None:
                    self._start(record)
                if record is not None or self._again:
                    self._again = False
                    self._look()
            case _StoreFailed(error=error):
                self._busy = self._again = False
                self._retry(error)
            case _PullEnded(image_id=image_id, error=error):
                self._active.discard(image_id)
                if error is None:
                    self._look()
                    self._tell(changed=True)
                else:
                    # The image stays `building` in the database: take it up again, but not at once.
                    self._retry(error)
            case _CollectEnded(roots=roots, files=files, error=error):
                self._collecting = False
                if error is not None:
                    self.ctx.log.warning("collecting images failed", error=str(error))
                elif roots or files:
                    self.ctx.log.info("unused images removed", roots=roots, files=files)
                if roots:
                    self._tell(changed=True)
                if self._collect_again:
                    self._collect()
            case _Told(error=error):
                self._telling = False
                if error is None:
                    self._tell()
                else:
                    # Only a hint for the scheduler: the next look tries again.
                    self._changed = True
                    self.ctx.log.debug("what is in the cache was not told", error=str(error))
            case _:
                self.ctx.log.warning("unknown message", message=type(message).__name__)

    def _look(self) -> None:
        if self._busy:
            self._again = True
            return
        if self._reclaim_due:
            if self._active:
                return  # they are `building` too; the last one to end looks again
            self._busy = True
            self.ctx.effect(
                self._store.reclaim,
                self._node_id,
                name="reclaim",
                deadline=_STORE_DEADLINE,
                then=_Reclaimed,
                failed=_StoreFailed,
            )
            return
        if len(self._active) >= self._settings.concurrent_pulls:
            return
        self._busy = True
        self.ctx.effect(
            self._store.claim_pending,
            self._node_id,
            name="claim",
            deadline=_STORE_DEADLINE,
            then=_Claimed,
            failed=_StoreFailed,
        )

    def _retry(self, error: Exception) -> None:
        self._failures += 1
        # Whether a claim that failed was committed is unknown: a reclaim finds out.
        self._reclaim_due = True
        ceiling = min(_BACKOFF_MAX, _BACKOFF_FIRST * 2 ** min(self._failures, 10))
        wait = self.ctx.env.random.uniform(ceiling / 2, ceiling)
        self.ctx.log.warning("images can't be worked on", error=repr(error), retry_in=round(wait, 2))
        self.ctx.after(wait, Wake("retry"))

    def _start(self, record: ImageRecord) -> None:
        if record.id in self._active:
            return
        self._active.add(record.id)
        self.ctx.effect(
            self._work,
            record,
            name=f"pull {record.id}",
            deadline=None,  # has its own, after which the failure must still be written
            then=lambda _: _PullEnded(record.id),
            failed=lambda error: _PullEnded(record.id, error),
        )

    async def _work(self, record: ImageRecord) -> None:
        log = self.ctx.log.bind(image=str(record.id), source=record.source)
        log.info("pull started")
        began = self.ctx.env.monotonic()
        outcome: Pulled | Problem
        try:
            outcome = await self._pull(record)
        except Problem as problem:
            outcome = problem
        except Exception as error:
            log.exception("pull failed for an unexpected reason")
            outcome = explain(error)
        seconds = round(self.ctx.env.monotonic() - began, 2)
        if isinstance(outcome, Problem):
            await self._write(
                partial(self._store.failed, record.id, outcome.detail, outcome.field, outcome.fix), record
            )
            log.warning("pull failed", error=outcome.detail, code=outcome.code, fix=outcome.fix, seconds=seconds)
        else:
            await self._write(
                partial(self._store.ready, record.id, outcome.digest, outcome.config, outcome.size), record
            )
            log.info("image ready", digest=outcome.digest, size=outcome.size, seconds=seconds)
        await self._drop_spooled(record)

    async def _pull(self, record: ImageRecord) -> Pulled:
        progress = Progress()
        outcome: Pulled | Exception
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report, record.id, progress)
            try:
                outcome = await self._puller.pull(record.source, progress)
            except Exception as error:  # raised below, outside of the nursery's group
                outcome = error
            nursery.cancel_scope.cancel()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _report(self, image_id: UUID, progress: Progress) -> None:
        last: tuple[int, str] | None = None
        while True:
            now = (progress.percent, progress.message)
            if now != last:
                last = now
                try:
                    with trio.move_on_after(_STORE_DEADLINE):
                        await self._store.progress(image_id, *now)
                except Problem as error:
                    # Only a figure for people: the next one will do.
                    self.ctx.log.debug("progress was not written", image=str(image_id), error=str(error))
            await trio.sleep(PROGRESS_EVERY)

    async def _write(self, write: Callable[[], Awaitable[None]], record: ImageRecord) -> None:
        """Write an outcome, again and again while Postgres is away: it must not be lost."""
        failures = 0
        while True:
            try:
                with trio.fail_after(_STORE_DEADLINE):
                    await write()
                return
            except (Problem, trio.TooSlowError) as error:
                if isinstance(error, NotFound):
                    self.ctx.log.info("image was deleted meanwhile", image=str(record.id))
                    return
                failures += 1
                ceiling = min(_BACKOFF_MAX, _BACKOFF_FIRST * 2 ** min(failures, 10))
                wait = self.ctx.env.random.uniform(ceiling / 2, ceiling)
                self.ctx.log.warning("outcome was not written", image=str(record.id), error=str(error), retry_in=wait)
                await trio.sleep(wait)

    async def _drop_spooled(self, record: ImageRecord) -> None:
        if not is_upload(record.source):
            return
        path = Path(record.source.removeprefix(ARCHIVE))
        # Never anything that the spool does not hold, whatever a source says.
        if path.parent == self._paths.spool and path.name not in ("", ".", ".."):
            # The outcome is written, so nobody would come back for the file.
            with trio.move_on_after(_CLEAN_UP, shield=True):
                await trio.to_thread.run_sync(partial(path.unlink, missing_ok=True))

    def _read(self, reply: Reply, read: Callable[[], T], then: Callable[[T], Message], name: str) -> None:
        """Answer somebody after a look at the disk."""
        try:
            self.ctx.effect(
                trio.to_thread.run_sync,
                read,
                name=name,
                deadline=_READ_DEADLINE,
                then=then,
                failed=lambda error: _Answer(reply, error=error),
            )
        except TooManyEffects:
            reply.fail(Unavailable("too many questions about images at once", fix="try again in a moment"))

    # --- what placements wait for

    def _ensure(self, request: EnsureRoot) -> None:
        reply, digest = self.ctx.reply_slot(), request.digest
        # From now on: a collection that is under way may have asked what is in use before this was.
        self._puller.keep(digest, self.ctx.env.now() + _KEEP)
        if not self._fetches.join(digest, reply, self.ctx.env.monotonic()):
            then = partial(_Looked, request, reply)
            self._read(reply, partial(self._puller.use, digest), then, f"root {digest[:19]}")

    def _looked(self, request: EnsureRoot, reply: Reply, root: RootImage | None) -> None:
        if root is not None:
            reply.reply(root)
            return
        if not request.source or is_upload(request.source):
            reply.fail(
                NotFound(
                    f"this host has no root filesystem of {request.digest}, and an uploaded image is in no registry",
                    field="image_id",
                    fix="upload it to this host too, or push it to a registry and add it from there",
                )
            )
            return
        try:
            self._fetches.ask(request.digest, request.source, reply, self.ctx.env.monotonic())
        except Problem as problem:
            reply.fail(problem)
            return
        self._start_fetches()
        self._sign_later()

    def _start_fetches(self) -> None:
        for fetch in self._fetches.start(self.ctx.env.monotonic()):
            self.ctx.log.info("image of a placement is fetched", digest=fetch.digest, source=fetch.source)
            self._fetching[fetch] = self.ctx.effect(
                self._puller.fetch,
                fetch.source,
                fetch.digest,
                fetch.progress,
                name=f"fetch {fetch.digest[:19]}",
                deadline=None,  # has its own
                then=partial(_Fetched, fetch),
                failed=partial(_Fetched, fetch, None),
            )

    def _fetched(self, message: _Fetched) -> None:
        fetch, log = message.fetch, self.ctx.log.bind(digest=message.fetch.digest, source=message.fetch.source)
        self._fetching.pop(fetch, None)
        if message.root is not None:
            log.info("image of a placement is here")
            for reply in self._fetches.succeeded(fetch):
                reply.reply(message.root)
            self._tell(changed=True)
        else:
            error = message.error or Unavailable("nothing came of it")
            problem = explain(error)
            log.warning("image of a placement was not fetched", error=problem.detail, code=problem.code)
            chance = self.ctx.env.random.random()
            for reply in self._fetches.failed(fetch, problem, self.ctx.env.monotonic(), chance):
                reply.fail(problem)
        self._start_fetches()

    def _sign_later(self) -> None:
        if self._fetches and not self._signing:
            self._signing = True
            self.ctx.after(SIGN, _Signs())

    def _sign(self) -> None:
        self._signing = False
        for reply, sign in self._fetches.signs():
            reply.reply(sign)
        for fetch in self._fetches.unasked(self.ctx.env.monotonic()):
            self.ctx.log.info("nobody waits for an image any more", digest=fetch.digest)
            effect = self._fetching.pop(fetch, None)
            if effect is not None:
                effect.cancel()
        self._start_fetches()
        self._sign_later()

    # --- the cache

    def _usage(self) -> ImageUsage:
        cache: RootCache = self._puller.cache
        roots, root_bytes = cache.usage()
        pulling = len(self._active) + self._fetches.running
        blobs, blob_bytes = self._puller.blobs.usage()
        return ImageUsage(roots, root_bytes, blobs, blob_bytes, cache.free_bytes(), pulling)

    def _tell(self, *, changed: bool = False) -> None:
        """Tell which images are here when that may have changed."""
        self._changed = self._changed or changed
        if not self._changed or self._telling:
            return
        self._changed, self._telling = False, True
        self.ctx.effect(
            self._tell_now,
            name="tell",
            deadline=_STORE_DEADLINE,
            then=lambda _: _Told(),
            failed=_Told,
        )

    async def _tell_now(self) -> None:
        digests = await trio.to_thread.run_sync(self._puller.cache.digests)
        await self._store.record_cached(self._node_id, digests)

    def _collect(self) -> None:
        self._collect_again = self._collecting
        if self._collecting:
            return
        self._collecting = True
        self.ctx.effect(
            self._collect_now,
            name="collect",
            deadline=300.0,
            then=lambda counts: _CollectEnded(*counts),
            failed=lambda error: _CollectEnded(error=error),
        )

    async def _collect_now(self) -> tuple[int, int]:
        in_use = await self._store.digests_in_use()
        return await self._puller.collect(in_use, self.ctx.env.now())
