"""Talking with the guest of an instance: finding the way to it, and what it says about itself."""

from __future__ import annotations

from uuid import UUID

import msgspec

from actors.model.errors import Conflict, Problem, Unavailable
from actors.model.states import InstanceState
from actors.vm.agent.link import AgentLink
from actors.vm.agent.statistics import Statistics
from zeitwork.api.call import Answer, Call

#: Seconds for a guest to say how it does.
STATISTICS_S = 5.0

_REACHABLE = (InstanceState.STARTING, InstanceState.RUNNING, InstanceState.STOPPING)
_FIXES = {
    InstanceState.PAUSED: "resume it first: zeitwork resume",
    InstanceState.STOPPED: "start it first: zeitwork start",
    InstanceState.FAILED: "start it again: zeitwork start; zeitwork logs shows its last words",
    InstanceState.CRASH_LOOP: "see why with zeitwork logs; zeitwork start tries it again at once",
    InstanceState.PENDING: "wait until a host has room for it",
}


class GuestMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """What a guest says about itself now, null for what it does not say. Counters count since its boot.

    All of it is the guest's own word: what the instance may use at most is decided outside of it.
    """

    placement_id: UUID
    uptime_seconds: float | None
    load_1m: float | None
    processes: int | None
    memory_total_bytes: int | None
    memory_available_bytes: int | None
    disk_total_bytes: int | None
    disk_used_bytes: int | None
    network_received_bytes: int | None
    network_sent_bytes: int | None
    cpu_user_seconds: float | None
    cpu_system_seconds: float | None
    cpu_idle_seconds: float | None
    oom_kills: int | None
    app_pid: int | None


async def elsewhere(call: Call, node: UUID, what: str) -> Problem:
    """Return what is said of something of an instance that only the host with its placement, another one, has."""
    host = (await call.deps.store.nodes.get(node)).hostname
    return Problem(
        f"the instance is on host {host}, and its {what} with it", fix=f"ask on {host}", code="elsewhere", status=421
    )


async def reach(call: Call) -> tuple[UUID, AgentLink]:
    """Return the placement of the instance in the path and the link to its guest.

    Raises `Conflict` with its state when it does not run, a `Problem` 421 when it runs on another host and
    `Unavailable` when its guest can't be talked with.
    """
    row = await call.deps.store.instances.get(call.id)
    if row.placement_id is None or row.state not in _REACHABLE:
        because = f": {row.reason}" if row.reason else ""
        raise Conflict(
            f"the instance is {row.state.value}{because}",
            field="id",
            fix=_FIXES.get(row.state, "see zeitwork ps for its state"),
            code="not-running",
        )
    if row.node_id is not None and row.node_id != call.deps.node_id:
        raise await elsewhere(call, row.node_id, "guest")
    link = call.deps.agents.get(row.placement_id)
    if link.frozen:
        raise Unavailable(
            "the guest stands still while a snapshot is taken", code="guest-frozen", fix="try again in a moment"
        )
    return row.placement_id, link


async def metrics(call: Call) -> Answer:
    """GET /api/v1/instances/{id}/metrics."""
    placement_id, link = await reach(call)
    return Answer(present(placement_id, await link.statistics(STATISTICS_S)))


def present(placement_id: UUID, said: Statistics) -> GuestMetrics:
    """Return a guest's statistics in the API's units."""
    return GuestMetrics(
        placement_id=placement_id,
        uptime_seconds=_thousandth(said.uptime_ms),
        load_1m=_thousandth(said.load_1m_milli),
        processes=said.processes,
        memory_total_bytes=_kib(said.memory_total_kib),
        memory_available_bytes=_kib(said.memory_available_kib),
        disk_total_bytes=_kib(said.disk_total_kib),
        disk_used_bytes=_kib(said.disk_used_kib),
        network_received_bytes=said.network_received_bytes,
        network_sent_bytes=said.network_sent_bytes,
        cpu_user_seconds=_thousandth(said.cpu_user_ms),
        cpu_system_seconds=_thousandth(said.cpu_system_ms),
        cpu_idle_seconds=_thousandth(said.cpu_idle_ms),
        oom_kills=said.oom_kills,
        app_pid=said.app_pid or None,
    )


def _thousandth(value: int | None) -> float | None:
    return None if value is None else value / 1000


def _kib(value: int | None) -> int | None:
    return None if value is None else value * 1024
