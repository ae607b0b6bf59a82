"""What breaks in a world: faults of a plan, each at its time, and those that somebody runs into."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import trio

from runtime.simulation import Delay
from tests.simulation import plan as items
from tests.simulation.plan import DATABASE

if TYPE_CHECKING:
    from tests.simulation.host import SimulatedHost
    from tests.simulation.world import World

#: What makes one host take another one for dead.
_TROUBLES = (
    *(items.Kill, items.Quit, items.Crash, items.Pause),
    *(items.LinkCut, items.LinkHold, items.LinkStall, items.LinkSlow, items.Split),
)


class Faults:
    """Breaks things, and mends them.

    ``troubled`` is when the last trouble of hosts and between them is over, ``deaf`` are instances whose guests do not
    hear, ``ambushes`` wait for somebody.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.troubled = 0.0
        self.deaf: dict[UUID, None] = {}
        self.ambushes: list[items.Ambush] = []

    def passing(self, host: str, point: str) -> float | None:
        """Hit a host that comes to a point where somebody waits for it.

        Return the seconds after which what it sends arrives nevertheless, None when it is not hit so.
        """
        for ambush in self.ambushes:
            if ambush.on == point:
                break
        else:
            return None
        number = next((one.number for one in self._world.hosts if one.name == host), None)
        if number is None:
            return None
        self.ambushes.remove(ambush)
        self._trouble(ambush.seconds)
        if ambush.does == "late":
            self._world.server.count(f"ambushes: late on {point}")
            self._world.trace("ambush", f"{host} is killed at {point}, and heard {ambush.seconds} s later")
            self._world.hosts[number].kill(0.3)
            return ambush.seconds
        at, seconds = trio.current_time(), ambush.seconds
        hit = {"kill": items.Kill, "crash": items.Crash, "pause": items.Pause}[ambush.does](at, number, seconds)
        self._world.server.count(f"ambushes: {ambush.does} on {point}")
        self._world.trace("ambush", str(hit))
        if isinstance(hit, items.Kill):
            # At once: the very next step of its process must not happen.
            self._world.hosts[number].kill(seconds)
        elif isinstance(hit, items.Crash):
            self._world.hosts[number].crash(seconds)
            self._world.nursery.start_soon(self._dark, self._world.hosts[number], seconds)
        else:
            self._world.hosts[number].env.hold()
            self._world.network.hold(host)
            self._world.nursery.start_soon(self._go_on, self._world.hosts[number], seconds)
        return None

    def commanding(self, host: SimulatedHost, node_id: UUID) -> None:
        """Hit a leader that sends a command, if somebody waits for that: its host is cut off from the database, and the
        command kept on its way. When it arrives after so many seconds, another one leads.
        """
        ambush = next((one for one in self.ambushes if one.on == "command"), None)
        target = self._world.host_of(node_id)
        if ambush is None or target is None or target is host:
            return
        self.ambushes.remove(ambush)
        self._trouble(ambush.seconds)
        self._world.server.count("ambushes: late on command")
        self._world.trace("ambush", f"{host.name} is cut off as it commands {target.name}: {ambush}")
        self._world.nursery.start_soon(self._hold_link, host.name, target.name, ambush.seconds)
        # Not before it has been sent.
        self._world.network.schedule(trio.current_time() + 0.05, None, lambda: self._cut_off(host.name, ambush.seconds))

    def _cut_off(self, host: str, seconds: float) -> None:
        self._world.nursery.start_soon(self._cut, host, seconds, "both")

    async def do(self, item: items.Item) -> None:
        """Break what a plan says, and have it whole again in time."""
        if isinstance(item, _TROUBLES):
            self._trouble(item.over - item.at)
        match item:
            case items.Kill(host=host, seconds=seconds):
                self._host(host).kill(seconds)
            case items.Quit(host=host, seconds=seconds):
                self._host(host).quit(seconds)
            case items.Crash(host=host, seconds=seconds):
                self._host(host).crash(seconds)
                await self._dark(self._host(host), seconds)
            case items.Pause(host=host, seconds=seconds):
                self._host(host).env.hold()
                self._world.network.hold(self._host(host).name)
                await self._go_on(self._host(host), seconds)
            case items.Cut(host=host, seconds=seconds, way=way):
                await self._cut(self._host(host).name, seconds, way)
            case items.Stall(host=host, seconds=seconds):
                self._world.network.stall(self._host(host).name, DATABASE, seconds)
                self._world.network.stall(DATABASE, self._host(host).name, seconds)
            case items.Slow(host=host, seconds=seconds, mean=mean):
                name = self._host(host).name
                self._world.network.delay(name, DATABASE, Delay(mean / 2, mean / 2, 5 * mean))
                await trio.sleep(seconds)
                self._world.network.delay(name, DATABASE, None)
            case items.LinkCut() | items.LinkHold() | items.LinkStall() | items.LinkSlow() | items.Split():
                await self._break_links(item)
            case items.Outage(seconds=seconds):
                self._world.server.shut_down()
                await trio.sleep(seconds)
                self._world.server.down = False
            case items.Aborts(seconds=seconds, share=share):
                self._world.server.aborts = share
                await trio.sleep(seconds)
                self._world.server.aborts = 0.0
            case items.LostAnswers(seconds=seconds, share=share):
                self._world.server.lost_answers = share
                await trio.sleep(seconds)
                self._world.server.lost_answers = 0.0
            case items.LostHints(seconds=seconds, share=share):
                self._world.server.lost_hints = share
                await trio.sleep(seconds)
                self._world.server.lost_hints = 0.0
            case items.ClockStep(host=host, step=step):
                env = self._world.database_env if host < 0 else self._host(host).env
                env.step_clock(step)
            case items.Ambush():
                self.ambushes.append(item)
            case items.AppCrash(instance=instance):
                self._app_crash(self._world.instance_id(instance))
            case items.MemberCrash(group=group):
                self._member_crash(self._world.group_id(group))
            case items.Deaf(instance=instance):
                self._deafen(self._world.instance_id(instance))
            case items.FailStart(host=host, seconds=seconds, job=job):
                await self._fail_starts(self._host(host), seconds, job)
            case _:
                raise AssertionError(f"nobody knows how to do {item}")

    def _trouble(self, seconds: float) -> None:
        """Note that for so long hosts may rightly be taken for dead."""
        self.troubled = max(self.troubled, trio.current_time() + seconds)

    def _host(self, number: int) -> SimulatedHost:
        return self._world.hosts[number % len(self._world.hosts)]

    async def _dark(self, host: SimulatedHost, seconds: float) -> None:
        """Nothing is heard of a machine that is down; those who speak to it hear of that only when it is up again."""
        self._world.network.hold(host.name)
        await trio.sleep(seconds)
        for other in (DATABASE, *(one.name for one in self._world.hosts if one is not host)):
            self._world.network.reset(host.name, other)
        self._world.network.release(host.name)

    async def _go_on(self, host: SimulatedHost, seconds: float) -> None:
        await trio.sleep(seconds)
        host.env.release()
        self._world.network.release(host.name)

    async def _break_links(self, item: items.Item) -> None:
        match item:
            case items.LinkCut(host=host, other=other, seconds=seconds, way=way):
                await self._cut(self._host(host).name, seconds, way, self._host(other).name)
            case items.LinkHold(host=host, other=other, seconds=seconds):
                await self._hold_link(self._host(host).name, self._host(other).name, seconds)
            case items.LinkStall(host=host, other=other, seconds=seconds):
                self._world.network.stall(self._host(host).name, self._host(other).name, seconds)
                self._world.network.stall(self._host(other).name, self._host(host).name, seconds)
            case items.LinkSlow(host=host, other=other, seconds=seconds, mean=mean):
                link = self._host(host).name, self._host(other).name
                self._world.network.delay(*link, Delay(mean / 2, mean / 2, 5 * mean))
                await trio.sleep(seconds)
                self._world.network.delay(*link, None)
            case items.Split(host=host, count=count, seconds=seconds, database=database):
                side = {self._host(host + place).name: None for place in range(count)}
                rest = [one.name for one in self._world.hosts if one.name not in side] + [DATABASE] * database
                async with trio.open_nursery() as nursery:
                    for inside in side:
                        for outside in rest:
                            nursery.start_soon(self._cut, inside, seconds, "both", outside)

    async def _hold_link(self, one: str, other: str, seconds: float) -> None:
        for link in ((one, other), (other, one)):
            self._world.network.hold_link(*link)
        await trio.sleep(seconds)
        for link in ((one, other), (other, one)):
            self._world.network.release_link(*link)

    async def _cut(self, host: str, seconds: float, way: str, other: str = DATABASE) -> None:
        links = [(host, other)] * (way in ("both", "out")) + [(other, host)] * (way in ("both", "in"))
        for link in links:
            self._world.network.cut(*link)
        await trio.sleep(seconds)
        for link in links:
            self._world.network.heal(*link)

    def _app_crash(self, instance_id: UUID) -> None:
        for _, placement, machine in self._world.all_machines():
            if placement.instance_id == instance_id:
                machine.crash_app()

    def _member_crash(self, group_id: UUID) -> None:
        for _, placement, machine in self._world.all_machines():
            instance = self._world.database.instances.get(placement.instance_id)
            if instance is not None and instance.group_id == group_id and machine.running:
                machine.crash_app()
                return

    def _deafen(self, instance_id: UUID) -> None:
        self.deaf[instance_id] = None
        for _, placement, machine in self._world.all_machines():
            if placement.instance_id == instance_id:
                machine.deaf = True

    async def _fail_starts(self, host: SimulatedHost, seconds: float, job: str) -> None:
        host.set_fails(job)
        await trio.sleep(seconds)
        host.set_fails("")
