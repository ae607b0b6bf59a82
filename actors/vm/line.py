"""A machine's line to its own guest and monitor: the agent's link while it runs, and whether both ends answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import trio

from actors.model.crash_points import CrashPoint
from actors.model.errors import Problem, Unavailable
from actors.vm import hold, snapshots
from actors.vm.agent.link import AgentLink
from actors.vm.agents import OLDER, Agents
from actors.vm.liveness import Liveness, Part, heard, missed
from actors.vm.machine import Acceleration, Hypervisor
from actors.vm.operations import Operations
from runtime import Environment, crash

#: Seconds for a heartbeat to be answered.
_ANSWER = {Acceleration.KVM: 5.0, Acceleration.TCG: 15.0}
#: A guest that answers proves that its monitor serves it; that this can also be spoken to is asked at every so many.
_MONITOR_EVERY = 6
_CLEAN_UP = 30.0


@dataclass(frozen=True, slots=True)
class Answers:
    """Who answered a pulse; None: was not asked."""

    monitor: bool | None = None
    guest: bool | None = None


class GuestLine:
    """One start's line. ``agent`` is the version of the protocol that the guest speaks, 0 for none.

    ``heard_before``: its agent has answered an earlier process of this host, so that it may be frozen now.
    """

    def __init__(
        self,
        hypervisor: Hypervisor,
        run: Path,
        placement_id: UUID,
        agents: Agents,
        env: Environment,
        *,
        agent: int,
        heard_before: bool,
        changed: Callable[[], None],
    ) -> None:
        self._hypervisor = hypervisor
        self._run = run
        self._placement_id = placement_id
        self._agents = agents
        self._env = env
        self._pulses = 0
        self._known = heard_before
        self.liveness = Liveness()
        #: When the guest last answered, in Unix seconds.
        self.heard_at: float | None = None
        self.link: AgentLink | None = None
        if agent:
            self.link = hold.agent_link(hypervisor, run, env, str(placement_id), changed)

    async def run(self) -> None:
        """Keep the link, for everyone who wants to talk with the guest, until cancelled."""
        if self.link is None:
            self._agents.register_without(self._placement_id, OLDER)
            try:
                await trio.sleep_forever()
            finally:
                self._agents.unregister(self._placement_id)
        self._agents.register(self._placement_id, self.link)
        try:
            await self.link.run()
        finally:
            self._agents.unregister(self._placement_id, self.link)

    # --- heartbeats

    async def pulse(self) -> Answers:
        """Ask the guest, and its monitor when the guest is silent or it is time."""
        self._pulses += 1
        guest = await self._guest_answers()
        monitor = None
        if guest is not True or self._pulses % _MONITOR_EVERY == 0:
            monitor = await self._answered(self._ask_monitor)
        return Answers(monitor, guest)

    def count(self, answers: Answers) -> None:
        """Take the answers of a pulse into account."""
        for part, answered in ((Part.MONITOR, answers.monitor), (Part.GUEST, answers.guest)):
            if answered is not None:
                self.liveness = (heard if answered else missed)(self.liveness, part)
        if answers.guest:
            self.heard_at = self._env.now()

    async def _guest_answers(self) -> bool | None:
        return None if self.link is None else await self._answered(self._ask_guest)

    async def _ask_guest(self) -> None:
        assert self.link is not None
        try:
            await self.link.ping(_ANSWER[self._hypervisor.acceleration])
        except Unavailable:
            self.link.reset()
            raise

    async def _ask_monitor(self) -> None:
        await self._hypervisor.paused(self._run)

    async def _answered(self, ask: Callable[[], Any]) -> bool:
        with trio.move_on_after(_ANSWER[self._hypervisor.acceleration]):
            try:
                await ask()
            except Problem:
                return False
            return True
        return False

    async def ask_to_stop(self) -> bool:
        """Ask the guest's init to end the app; return whether it was told."""
        return self.link is not None and self.link.connected and await self._answered(self.link.stop)

    # --- held still

    @property
    def _reachable(self) -> AgentLink | None:
        """The link when there is, or was, somebody at its other end."""
        link = self.link
        return link if link is not None and (self._known or link.connected) else None

    def note_connected(self) -> bool:
        """Note that the agent has answered; return whether that is news."""
        news = not self._known and self.link is not None and self.link.connected
        self._known = self._known or news
        return news

    async def pause(self) -> None:
        """Hold the guest still. Raises `Problem`."""
        await hold.hold(self._hypervisor, self._run, self._reachable)

    async def resume(self) -> None:
        """Let the guest go on, with the right time. Raises `Problem`."""
        await hold.release(self._hypervisor, self._run, self._reachable, self._env.now())
        self.liveness = Liveness()

    async def capture(self, snapshot: UUID, operations: Operations) -> None:
        """Take a snapshot into a directory of its own; the guest is left held still. Raises `Problem` or `OSError`.

        Failed or cancelled, nothing of the snapshot is left.
        """
        link = self.link
        if link is None:
            raise Unavailable(
                "a snapshot needs the agent in the guest, and this one has none", fix="restart the instance first"
            )
        directory = await operations.begin_snapshot(snapshot)
        try:
            crash.point(CrashPoint.SNAPSHOT_BEGUN)
            await hold.hold_frozen(self._hypervisor, self._run, link)
            crash.point(CrashPoint.GUEST_HELD)
            await self._hypervisor.save(self._run, directory / snapshots.MACHINE)
            crash.point(CrashPoint.STATE_SAVED)
            link.reset()  # the guest drops it when it goes on
            await operations.save_disk(directory)
            crash.point(CrashPoint.DISK_SAVED)
        except BaseException:
            with trio.move_on_after(_CLEAN_UP, shield=True):
                await operations.destroy_snapshot(snapshot)
            raise
