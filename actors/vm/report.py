"""Telling the database what became of a machine, until it is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import trio

from actors.host.store import PlacementStore
from actors.model.crash_points import CrashPoint
from actors.model.errors import NotFound
from actors.model.records import Observation
from actors.model.states import PlacementState
from actors.vm.lifecycle import Report
from runtime import Environment, crash

#: First and largest wait in seconds before something is told again.
FIRST, LONGEST = 0.2, 10.0

T = TypeVar("T")


async def until_told(tell: Callable[[], Awaitable[T]], env: Environment, log: Any, **what: object) -> T | None:
    """Return what ``tell`` returns once it succeeds; None when the database does not know what it is about.

    Whatever it raises otherwise, it is tried again, with growing waits and without an end: while the database is away
    the machine runs on, and what happened to it must be told once that is mended. ``what`` is for the log.
    """
    failures = 0
    while True:
        try:
            return await tell()
        except NotFound:
            return None  # another database than the one that it came from
        except Exception as error:
            failures += 1
            ceiling = min(LONGEST, FIRST * 2.0 ** min(failures, 10))
            wait = env.random.uniform(ceiling / 2, ceiling)
            log.warning(
                "the database could not be told; it is told later", retry_in=round(wait, 2), error=str(error), **what
            )
            await trio.sleep(wait)


async def observe(
    store: PlacementStore,
    placement_id: UUID,
    expected: Collection[PlacementState],
    observation: Observation,
    env: Environment,
    log: Any,
) -> bool:
    """Compare-and-set a placement's observed state, until that is done or refused; return whether it was done."""

    async def tell() -> bool:
        crash.point(CrashPoint.REPORT_DUE)
        accepted = await store.observe(placement_id, expected, observation)
        crash.point(CrashPoint.REPORT_WRITTEN)
        return accepted

    return bool(await until_told(tell, env, log, placement=str(placement_id), state=observation.state))


def observation(report: Report, *, now: float, hypervisor: str | None, pid: int | None, boot: str) -> Observation:
    """Return what to write for a report. ``now`` is Unix seconds, ``boot`` this boot of the kernel. Pure."""
    ending = report.ending
    reason = ending.reason if ending is not None else ""
    if report.state is PlacementState.ASSIGNED:
        reason = "the host was shut down"
    next_try_at = None
    if report.state is PlacementState.WAITING and report.wait is not None:
        next_try_at = now + report.wait
        reason = f"{reason}; next try at {_clock(next_try_at)}"
    return Observation(
        state=report.state,
        reason=reason,
        outcome=ending.outcome if ending is not None else None,
        exit_status=ending.status if ending is not None else None,
        hypervisor=hypervisor,
        pid=pid if report.state in (PlacementState.RUNNING, PlacementState.PAUSED) else None,
        boot_id=boot,
        failures=report.failures,
        next_try_at=next_try_at,
    )


def _clock(at: float) -> str:
    """Return a time as people read it, to the second."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
