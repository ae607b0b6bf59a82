"""Logs: what an instance's guest wrote to its console, from the file that the monitor appends to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated
from uuid import UUID

import msgspec
import trio
from starlette.types import ASGIApp

from actors.model.errors import NotFound, Problem, Unavailable
from actors.model.states import PlacementState
from zeitwork.api.call import Call
from zeitwork.api.decode import Input
from zeitwork.api.stream import Slots, Stream, Write
from zeitwork.store import Store
from zeitwork.store.rows import PlacementRow

#: Seconds between two looks at the file while following: short enough to feel live, cheap enough for many followers.
LOOK_S = 0.2
#: Seconds between two looks at the placement while following, to notice its end when no notification came.
_PLACEMENT_S = 2.0
_CHUNK = 64 * 1024


class LogQuery(Input):
    """``follow`` goes on as the guest writes; ``tail`` begins with the last so many lines; ``placement_id`` picks an
    earlier try instead of the newest.
    """

    follow: bool = False
    tail: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] | None = None
    placement_id: UUID | None = None


async def logs(call: Call) -> ASGIApp:
    """GET /api/v1/instances/{id}/logs."""
    query: LogQuery = call.query
    placement = _choose(await call.deps.store.instances.placements(call.id), query.placement_id)
    if placement is not None and placement.node_id != call.deps.node_id:
        raise Problem(
            f"the instance is on node {placement.node_id}, and its log with it",
            fix="ask that host",
            code="elsewhere",
            status=421,
        )
    slots: Slots = call.request.app.state.slots

    async def produce(write: Write) -> None:
        if placement is None:
            return
        path = call.deps.console(placement.id)
        if query.follow:
            await _follow(call.deps.store, placement.id, path, query.tail, write)
        else:
            await Reader(path).pump(write, tail=query.tail)

    headers = {"X-Placement-Id": str(placement.id)} if placement else {}
    return Stream(produce, media_type="text/plain; charset=utf-8", closing=call.closing, slots=slots, headers=headers)


class Reader:
    """Reads a file that grows and now and then is cut to nothing (its old part having been copied away)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._inode: int | None = None

    async def pump(self, write: Write, tail: int | None = None) -> int:
        """Write what is there and was not written yet; return how many bytes that was.

        ``tail`` skips all but the last so many lines. A file that is not there yet is empty.
        """
        if tail is not None:
            self._offset = await trio.to_thread.run_sync(_tail_offset, self._path, tail)
        total = 0
        # Not beyond what was there at first: a guest that writes faster than we read must not hold us here.
        end: int | None = None
        while end is None or self._offset < end:
            chunk, size = await trio.to_thread.run_sync(self._read)
            end = size if end is None else end
            if not chunk:
                break
            await write(chunk)
            total += len(chunk)
        return total

    def _read(self) -> tuple[bytes, int]:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return b"", 0
        try:
            status = os.fstat(descriptor)
            if status.st_size < self._offset or (self._inode is not None and status.st_ino != self._inode):
                self._offset = 0
            self._inode = status.st_ino
            chunk = os.pread(descriptor, _CHUNK, self._offset)
        finally:
            os.close(descriptor)
        self._offset += len(chunk)
        return chunk, status.st_size


async def _follow(store: Store, placement_id: UUID, path: Path, tail: int | None, write: Write) -> None:
    reader = Reader(path)
    await reader.pump(write, tail=tail)
    ended = trio.Event()

    async def watch() -> None:
        with store.notifications.subscribe("zw_placements") as hints:
            while not await _is_over(store, placement_id):
                with trio.move_on_after(_PLACEMENT_S):
                    while str(placement_id) not in (wake := await hints.wait()).ids and not wake.everything:
                        pass
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        while not ended.is_set():
            await reader.pump(write)
            with trio.move_on_after(LOOK_S):
                await ended.wait()
    await reader.pump(write)


async def _is_over(store: Store, placement_id: UUID) -> bool:
    try:
        return (await store.placements.get(placement_id)).state is PlacementState.REMOVED
    except NotFound:
        return True
    except Unavailable:
        return False  # the database is away; the guest goes on writing


def _choose(rows: tuple[PlacementRow, ...], wanted: UUID | None) -> PlacementRow | None:
    if wanted is None:
        return rows[-1] if rows else None
    for row in rows:
        if row.id == wanted:
            return row
    raise NotFound(
        f"the instance has no placement {wanted}", field="placement_id", fix="see /api/v1/instances/{id}/placements"
    )


def _tail_offset(path: Path, lines: int) -> int:
    """Return where the last ``lines`` lines of a file begin; a last line without an end counts as one."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return 0
    try:
        position = end = os.fstat(descriptor).st_size
        missing = lines
        while position > 0 and missing >= 0:
            start = max(0, position - _CHUNK)
            chunk = os.pread(descriptor, position - start, start)
            at = len(chunk)
            if position == end and lines > 0 and chunk.endswith(b"\n"):
                at -= 1
            if lines == 0:
                return end
            while (at := chunk.rfind(b"\n", 0, at)) >= 0:
                missing -= 1
                if missing == 0:
                    return start + at + 1
            position = start
        return 0
    finally:
        os.close(descriptor)
