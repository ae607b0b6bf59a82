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


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Answered with 200 when all is ok and with 503 when not."""

    status: Verdict
    version: str
    node_id: UUID
    parts: dict[str, Part]


async def health(call: Call) -> Answer:
    """GET /health."""
    store = await _store(call)
    parts = {"store": store}
    status = Verdict.OK if all(part.status is Verdict.OK for part in parts.values()) else Verdict.DEGRADED
    view = Health(status=status, version=call.deps.version, node_id=call.deps.node_id, parts=parts)
    return Answer(view, status=200 if status is Verdict.OK else 503)


async def _store(call: Call) -> Part:
    try:
        with trio.fail_after(STORE_DEADLINE_S):
            await call.deps.store.ping()
    except trio.TooSlowError:
        return Part(status=Verdict.DEGRADED, detail=f"the database did not answer within {STORE_DEADLINE_S:g} s")
    except Problem as problem:
        return Part(status=Verdict.DEGRADED, detail=problem.detail)
    return Part(status=Verdict.OK, detail="")
