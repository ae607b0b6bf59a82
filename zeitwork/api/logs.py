"""Logs: what an instance's guest wrote to its console, and its monitor for itself, from the files themselves."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated
from uuid import UUID

import msgspec
import trio
from starlette.types import ASGIApp

from actors.model.errors import NotFound, Unavailable
from actors.model.states import PlacementState
from actors.vm.guest import FIGURES, LOG
from zeitwork.api.call import Call
from zeitwork.api.console_reader import ConsoleReader
from zeitwork.api.decode import Input
from zeitwork.api.guest import elsewhere
from zeitwork.api.stream import Slots, Stream, Write
from zeitwork.store import Store
from zeitwork.store.rows import PlacementRow

#: Seconds between two looks at the file while following: short enough to feel live, cheap enough for many followers.
LOOK_S = 0.2
#: Seconds between two looks at the placement while following, to notice its end when no notification came.
_PLACEMENT_S = 2.0


class LogSource(StrEnum):
    """What is read. Of a try that is gone, the ends are kept."""

    CONSOLE = "console"
    MONITOR = "monitor"
    FIGURES = "figures"


#: Beside the console. Holes are made in them while they are written, so that they read as zeros at their beginning.
_BESIDE = {LogSource.MONITOR: LOG, LogSource.FIGURES: FIGURES}


class LogQuery(Input):
    """``follow`` goes on as it is written; ``tail`` begins with the last so many lines; ``placement_id`` picks an
    earlier try instead of the newest. ``source``: the guest's console, its monitor's own log, or that one's figures.
    """

    source: LogSource = LogSource.CONSOLE
    follow: bool = False
    tail: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] | None = None
    placement_id: UUID | None = None


async def logs(call: Call) -> ASGIApp:
    """GET /api/v1/instances/{id}/logs."""
    query: LogQuery = call.query
    placement = _choose(await call.deps.store.instances.placements(call.id), query.placement_id)
    if placement is not None and placement.node_id != call.deps.node_id:
        raise await elsewhere(call, placement.node_id, "log")
    slots: Slots = call.request.app.state.slots

    async def produce(write: Write) -> None:
        if placement is None:
            return
        path = call.deps.console(placement.id)
        if query.source is not LogSource.CONSOLE:
            path, write = path.with_name(_BESIDE[query.source]), _without_holes(write)
        if query.follow:
            await _follow(call.deps.store, placement.id, path, query.tail, write)
        else:
            await _copy(path, query.tail, write)

    headers = {"X-Placement-Id": str(placement.id)} if placement else {}
    return Stream(produce, media_type="text/plain; charset=utf-8", closing=call.closing, slots=slots, headers=headers)


def _without_holes(write: Write) -> Write:
    async def without(data: bytes) -> None:
        if rest := data.replace(b"\0", b""):
            await write(rest)

    return without


async def _copy(path: Path, tail: int | None, write: Write) -> ConsoleReader:
    reader = await trio.to_thread.run_sync(ConsoleReader, path, tail)
    try:
        while chunk := await trio.to_thread.run_sync(reader.read_existing):
            await write(chunk)
    finally:
        reader.close()
    return reader


async def _follow(store: Store, placement_id: UUID, path: Path, tail: int | None, write: Write) -> None:
    reader = await _copy(path, tail, write)
    ended = trio.Event()

    async def watch() -> None:
        with store.notifications.subscribe("zw_placements", "zw_observed") as hints:
            while not await _is_over(store, placement_id):
                with trio.move_on_after(_PLACEMENT_S):
                    while str(placement_id) not in (wake := await hints.wait()).ids and not wake.everything:
                        pass
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        while True:
            # Looked at before reading: what was written before the end is read after it was noticed.
            over = ended.is_set()
            while chunk := await trio.to_thread.run_sync(reader.read_new):
                await write(chunk)
            if over:
                return
            with trio.move_on_after(LOOK_S):
                await ended.wait()


async def _is_over(store: Store, placement_id: UUID) -> bool:
    try:
        return (await store.placements.get(placement_id)).state is PlacementState.REMOVED
    except NotFound:
        return True
    except Unavailable:
        return False  # the database is away; the guest goes on writing


def _choose(rows: tuple[PlacementRow, ...], wanted: UUID | None) -> PlacementRow | None:
    if wanted is None:
        # While an instance moves, that one which serves; its successor's is had by its id.
        return next((row for row in rows if row.kept), rows[-1]) if rows else None
    for row in rows:
        if row.id == wanted:
            return row
    raise NotFound(
        f"the instance has no placement {wanted}", field="placement_id", fix="see /api/v1/instances/{id}/placements"
    )
