"""Holding a guest still and letting it go on, and telling a guest that was restored who it is now.

Still means two things, in this order: the guest's processes are stopped with their file systems synced (FREEZE, by the
agent), then its CPUs. Going on is the reverse, with the clock set in between, so that an app never runs with the time,
the addresses or the random numbers of another moment or another machine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
import trio

from actors.model.crash_points import CrashPoint
from actors.model.errors import Failed, Problem, Unavailable
from actors.vm.agent.link import AgentLink
from actors.vm.agent.wire import MAX_ENTROPY
from actors.vm.machine import Hypervisor
from runtime import Environment, crash

#: Seconds for a guest to sync and freeze, for one that goes on to answer again, and for one of its answers.
_FREEZE, _ANSWER, _TRY = 60.0, 30.0, 10.0
#: Seconds for one connection to the guest's agent.
_CONNECT = 10.0

log = structlog.get_logger()


def agent_link(
    hypervisor: Hypervisor, run: Path, env: Environment, name: str, changed: Callable[[], None] | None = None
) -> AgentLink:
    """Return a link, not connected yet, to the agent in the guest whose monitor's run directory is ``run``."""

    async def connect() -> trio.SocketStream:
        return await hypervisor.agent(run, _CONNECT)

    return AgentLink(connect, lasting=hypervisor.lasting_channel, env=env, name=name, changed=changed)


async def hold(hypervisor: Hypervisor, run: Path, link: AgentLink | None) -> bool:
    """Hold a guest still; return whether its processes were frozen first. Idempotent. Raises `Problem`.

    A guest without an agent (``link`` is None), or whose agent does not answer, is paused all the same. Failed or
    cancelled, it may be held still or not.
    """
    if await hypervisor.paused(run):
        return False
    frozen = False
    if link is not None:
        try:
            await link.freeze(_FREEZE)
            frozen = True
        except Problem as problem:
            log.warning("a guest is paused without being frozen", run=str(run), reason=problem.detail)
    await hypervisor.pause(run)
    return frozen


async def hold_frozen(hypervisor: Hypervisor, run: Path, link: AgentLink) -> None:
    """Hold a guest still, its processes frozen and its file systems synced. Idempotent. Raises `Problem`.

    One that was paused without that goes on for the moment it takes.
    """
    if await hypervisor.paused(run):
        await hypervisor.resume(run)
    await link.wait_connected(_ANSWER)
    await _surely(link, lambda: link.freeze(_FREEZE), _FREEZE)
    await hypervisor.pause(run)


async def release(hypervisor: Hypervisor, run: Path, link: AgentLink | None, now: float) -> None:
    """Let a guest go on, its clock set to ``now`` (Unix seconds). Idempotent. Raises `Problem`."""
    if await hypervisor.paused(run):
        await hypervisor.resume(run)
        crash.point(CrashPoint.GUEST_RELEASED)
    if link is not None:
        await _surely(link, lambda: link.thaw(now, _TRY), _ANSWER)


async def introduce(hypervisor: Hypervisor, run: Path, drive: bytes, env: Environment, name: str) -> None:
    """Give a guest that was just restored, still frozen, its own identity, clock and entropy, and let it go on.

    Raises `Problem`; then the guest must not run on.
    """

    async def tell() -> None:
        if not link.frozen:
            raise Failed("the restored guest was not frozen: it would go on as the one that it was a snapshot of")
        await link.entropy(env.entropy(MAX_ENTROPY), _TRY)
        await link.identity(drive, _TRY)

    async with _linked(agent_link(hypervisor, run, env, name)) as link:
        await _surely(link, tell, _ANSWER)
        crash.point(CrashPoint.INTRODUCED)
        await _surely(link, lambda: link.thaw(env.now(), _TRY), _ANSWER)


@asynccontextmanager
async def _linked(link: AgentLink) -> AsyncIterator[AgentLink]:
    problem: Problem | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        try:
            yield link
        except Problem as error:  # not in a group: whoever starts machines knows what to do with it
            problem = error
        nursery.cancel_scope.cancel()
    if problem is not None:
        raise problem


async def _surely(link: AgentLink, work: Callable[[], Awaitable[None]], deadline: float) -> None:
    """Do ``work``, which is idempotent, over as many connections as it takes. Raises `Problem`, after ``deadline`` s.

    A guest that goes on from a snapshot drops every connection once it notices, new ones too: Firecracker tells it so.
    """
    until = trio.current_time() + deadline
    while True:
        await link.wait_connected(max(0.0, until - trio.current_time()))
        try:
            await work()
        except Unavailable:
            if trio.current_time() >= until:
                raise
            link.reset()
        else:
            return
