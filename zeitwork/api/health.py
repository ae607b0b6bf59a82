"""`/health`: whether this process can do its work, part by part."""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

import msgspec
import trio

from actors.model.errors import Problem
from zeitwork.api.call import Answer, Call

#: Seconds the database gets to answer before it counts as away.
STORE_DEADLINE_S = 2.0


class Verdict(StrEnum):
    """``ok``, or ``degraded``: VMs run and what is known is served, but nothing new can be accepted."""

    OK = "ok"
    DEGRADED = "degraded"


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the process; ``detail`` says what is wrong."""

    status: Verdict
    detail: str


class Leader(msgspec.Struct, frozen=True, kw_only=True):
    """The node whose host leads the cluster; ``epoch`` numbers its term and grows with each election."""

    node_id: UUID
    hostname: str
    epoch: int


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Answered with 200 when all is ok and with 503 when not. ``leader`` is null when nobody is known to lead."""

    status: Verdict
    version: str
    node_id: UUID
    parts: dict[str, Part]
    leader: Leader | None


async def health(call: Call) -> Answer:
    """GET /health."""
    store, leader = await _store(call)
    parts = {"store": store}
    status = Verdict.OK if all(part.status is Verdict.OK for part in parts.values()) else Verdict.DEGRADED
    view = Health(status=status, version=call.deps.version, node_id=call.deps.node_id, parts=parts, leader=leader)
    return Answer(view, status=200 if status is Verdict.OK else 503)


async def _store(call: Call) -> tuple[Part, Leader | None]:
    try:
        with trio.fail_after(STORE_DEADLINE_S):
            await call.deps.store.ping()
            row = await call.deps.store.election.leader()
    except trio.TooSlowError:
        detail = f"the database did not answer within {STORE_DEADLINE_S:g} s"
        return Part(status=Verdict.DEGRADED, detail=detail), None
    except Problem as problem:
        return Part(status=Verdict.DEGRADED, detail=problem.detail), None
    leading = row is not None and row.leading
    leader = Leader(node_id=row.node_id, hostname=row.hostname, epoch=row.epoch) if row and leading else None
    return Part(status=Verdict.OK, detail=""), leader
