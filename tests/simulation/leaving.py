"""How a host of a world leaves its cluster, what one does that was removed, and a machine that forgets it was one."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import trio

import zeitwork.leave
from actors.model.errors import Conflict, Problem, Unavailable
from runtime import System
from runtime.links.board import Board
from runtime.links.simulated import Stack
from tests.simulation.links import start_links
from tests.simulation.store import Store

if TYPE_CHECKING:
    from tests.simulation.host import SimulatedHost
    from tests.simulation.reach import ProcessLife

#: Seconds that one which is no host any more tries to be linked with those that are, and how often it does.
KNOCKS_FOR, KNOCKS = 6.0, 3
#: What `zeitwork.leave` reads: the host has joined, and has files to forget.
_CONFIG: Any = SimpleNamespace(database_url="of the cluster", data_dir=None)


class Member:
    """`zeitwork.tree.RunningHost` as far as leaving goes."""

    def __init__(self, node_id: UUID, store: Store, system: System, lost: trio.Event) -> None:
        self.node_id = node_id
        self.store = store
        self.system = system
        self.lost = lost
        self.superseded = trio.Event()
        self.left = False
        self.problem: Problem | None = None

    def leave(self, forget: Callable[[], None]) -> None:
        """See `RunningHost.leave`. The files are those of `SimulatedHost.forget`."""
        self.left = True

    def lose(self, problem: Problem) -> None:
        """See `RunningHost.lose`."""
        if self.problem is None and not self.left:
            self.problem = problem
            self.lost.set()


async def leave(host: SimulatedHost, *, force: bool) -> None:
    """Do what ``zeitwork leave`` does on that machine. Raises `Problem`."""
    life = host.life
    if life is not None and life.member is not None:
        running: Any = life.member
        await zeitwork.leave.leave(_CONFIG, running.store, running, force=force)
        return
    if host.belongs or not host.claimed:
        raise Unavailable("no process runs there")
    if not force:
        raise Conflict("this host was removed from the cluster", code="removed")
    # What `zeitwork.leave.forget_cluster` does, while no process has the data directory.
    host.kill(1.0)
    host.clean()
    host.forget()


async def knock(host: SimulatedHost, life: ProcessLife, store: Store) -> None:
    """Try to be linked with others as the host that this one was, as a process does that was not told yet."""
    world = host.world
    host.up_from = max(host.up_from, trio.current_time() + 10.0)
    if not world.linked or host.was is None or host.knocks >= KNOCKS:
        return
    host.knocks += 1
    world.trace(host.name, f"knocks as generation {host.was.generation} of {host.was.host}")
    life.stack = Stack(world.network, world.listeners, host.name)
    if life.dead:
        life.stack.end()
    board = Board(host.was.host, host.env.monotonic)
    async with System(host.env) as system:
        cluster = world.database.cluster_id
        await start_links(system, life.stack, store.units, host.was, cluster, board, lambda notice: None)
        with trio.move_on_after(KNOCKS_FOR):
            await life.over.wait()
        world.trace(host.name, f"is linked with {len(board.linked())} hosts")
