"""A world: hosts, a database, a network and people; a plan of what is done to them; a judge."""

from __future__ import annotations

import gc
import hashlib
import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any
from uuid import UUID

import structlog
import trio

from actors.model.image import ImageConfig
from actors.model.records import Placement
from runtime.simulation import Delay, HostEnvironment, Listeners, Network, run
from tests.actors.vm.simulated import Life, Machine, ModelOperations
from tests.simulation import plan as items
from tests.simulation.host import SimulatedHost, environment
from tests.simulation.judge import Judge, Violation
from tests.simulation.people import People, forced
from tests.simulation.plan import DATABASE, Plan
from tests.simulation.planted import Forgetful, planted
from tests.simulation.reach import Server
from tests.simulation.store import Bug, Database, LocalUnits, Store, tables

#: Seconds after the last fault within which everything must be as it is wanted.
CONVERGED_WITHIN = 90.0
#: Seconds between looks at whether it is.
LOOK_EVERY = 1.0
#: What makes one host take another one for dead.
_TROUBLES = (
    *(items.Kill, items.Quit, items.Crash, items.Pause),
    *(items.LinkCut, items.LinkHold, items.LinkStall, items.LinkSlow, items.Split),
)


@dataclass(frozen=True)
class Result:
    """What became of a world. ``seconds`` are simulated, ``took`` real; ``trace`` is a hash of all that happened."""

    plan: Plan
    violations: tuple[Violation, ...]
    faults: dict[str, int]
    looks: dict[str, int]
    seconds: float
    took: float
    trace: str
    figures: dict[str, float]


class World:
    """One run of one plan."""

    def __init__(self, plan: Plan, bugs: frozenset[Bug] = frozenset(), *, log: list[str] | None = None) -> None:
        self.plan = plan
        self.bugs = bugs
        self.log = log
        self.region = IPv4Network("10.128.0.0/16")
        self.deaf: dict[UUID, None] = {}
        self.injected: dict[str, int] = {}
        self._hash = hashlib.sha256()
        self._chance = random.Random(f"{plan.seed} world")
        self.nursery: trio.Nursery
        self.database_env = HostEnvironment(plan.seed)
        self.database = Database(self.database_env.now, random.Random(f"{plan.seed} ids"), rest=60.0, bugs=bugs)
        self.network = Network(random.Random(f"{plan.seed} network"), Delay(0.0003, 0.001, 1.0))
        self.listeners = Listeners()
        #: Whether hosts are linked with each other, and when the last trouble between them, and of them, is over.
        self.linked = bool(plan.settings.get("links", False))
        self.troubled = 0.0
        self.server = Server(self.database, self.network, random.Random(f"{plan.seed} server"))
        self.judge = Judge(self)
        self.database.committed = self._committed
        self.hosts = [
            SimulatedHost(self, number, UUID(int=0xA0000 + number), environment(plan.seed, number))
            for number in range(plan.hosts)
        ]
        self.people = People(self)
        self.image_id = UUID(int=0x1111)
        self._ambushes: list[items.Ambush] = []
        self.server.passing = self.passing

    # --- what is what

    def instance_id(self, number: int) -> UUID:
        """Return the id that a person gives an instance."""
        return UUID(int=0xF0000 + number)

    def group_id(self, number: int) -> UUID:
        """Return the id that a person gives a group."""
        return UUID(int=0xE0000 + number)

    def number_of(self, instance_id: UUID) -> int:
        """Return the number of an instance that a person made, else a negative one."""
        return instance_id.int - 0xF0000 if instance_id.int < 0xFFFFF else -1

    def is_forced(self, instance_id: UUID) -> bool:
        """Whether somebody has accepted that two of an instance may run."""
        return self.number_of(instance_id) in forced(self.database.requests)

    def host_name(self, node_id: UUID) -> str:
        """Return the name of a node's host."""
        node = self.database.nodes.get(node_id)
        return node.hostname if node is not None else str(node_id)

    def host_of(self, node_id: UUID) -> SimulatedHost | None:
        """Return the host of a node."""
        return next((host for host in self.hosts if host.node_id == node_id), None)

    def machine_of(self, placement: tables.Placement) -> Machine | None:
        """Return the machine of a placement, None when its host never made one."""
        for host in self.hosts:
            if placement.id in host.machines:
                return host.machines[placement.id]
        return None

    def all_machines(self) -> Iterator[tuple[str, tables.Placement, Machine]]:
        """Return host, placement and machine of each placement that the database knows."""
        for host in self.hosts:
            for placement_id, machine in host.machines.items():
                placement = self.database.placements.get(placement_id)
                if placement is not None:
                    yield host.name, placement, machine

    def operations(self, life: Life, machine: Machine, placement: Placement, cluster: str) -> ModelOperations:
        """Return what a virtual machine's actor does to its host."""
        kind = Forgetful if Bug.NO_INTENT in self.bugs else ModelOperations
        return kind(life, machine, placement, cluster)

    def trace(self, who: str, what: str) -> None:
        """Note what happened: two runs of one plan note the same."""
        line = f"{trio.current_time():.6f} {who}: {what}"
        self._hash.update(line.encode())
        if self.log is not None:
            self.log.append(line)

    def passing(self, host: str, point: str) -> float | None:
        """Hit a host that comes to a point where somebody waits for it.

        Return the seconds after which what it sends arrives nevertheless, None when it is not hit so.
        """
        for ambush in self._ambushes:
            if ambush.on == point:
                break
        else:
            return None
        number = next((one.number for one in self.hosts if one.name == host), None)
        if number is None:
            return None
        self._ambushes.remove(ambush)
        self._trouble(ambush.seconds)
        if ambush.does == "late":
            self.server.count(f"ambushes: late on {point}")
            self.trace("ambush", f"{host} is killed at {point}, and heard {ambush.seconds} s later")
            self.hosts[number].kill(0.3)
            return ambush.seconds
        at, seconds = trio.current_time(), ambush.seconds
        hit = {"kill": items.Kill, "crash": items.Crash, "pause": items.Pause}[ambush.does](at, number, seconds)
        self.server.count(f"ambushes: {ambush.does} on {point}")
        self.trace("ambush", str(hit))
        if isinstance(hit, items.Kill):
            # At once: the very next step of its process must not happen.
            self.hosts[number].kill(seconds)
        elif isinstance(hit, items.Crash):
            self.hosts[number].crash(seconds)
            self.nursery.start_soon(self._dark, self.hosts[number], seconds)
        else:
            self.hosts[number].env.hold()
            self.network.hold(host)
            self.nursery.start_soon(self._go_on, self.hosts[number], seconds)
        return None

    def commanding(self, host: SimulatedHost, node_id: UUID) -> None:
        """Hit a leader that sends a command, if somebody waits for that: its host is cut off from the database, and the
        command kept on its way. When it arrives after so many seconds, another one leads.
        """
        ambush = next((one for one in self._ambushes if one.on == "command"), None)
        target = self.host_of(node_id)
        if ambush is None or target is None or target is host:
            return
        self._ambushes.remove(ambush)
        self._trouble(ambush.seconds)
        self.server.count("ambushes: late on command")
        self.trace("ambush", f"{host.name} is cut off as it commands {target.name}, heard {ambush.seconds} s later")
        self.nursery.start_soon(self._hold_link, host.name, target.name, ambush.seconds)
        # Not before it has been sent.
        self.network.schedule(trio.current_time() + 0.05, None, lambda: self._cut_off(host.name, ambush.seconds))

    def _cut_off(self, host: str, seconds: float) -> None:
        self.nursery.start_soon(self._cut, host, seconds, "both")

    def _committed(self, name: str, term: Any) -> None:
        if name not in ("presence.heartbeat", "election.renew"):
            self.trace(DATABASE, f"{name} {len(self.database.events)}")
            if self.log is not None:
                for event in self.database.events[-3:]:
                    self.log.append(f"      {event.id} {event.who} {event.what} {event.subject_id} {dict(event.data)}")
        self.judge.committed(name, term)

    # --- running

    async def main(self) -> Result:
        """Let it happen, and return what became of it."""
        began = time.perf_counter()
        async with trio.open_nursery() as self.nursery:
            await self.nursery.start(self.network.run)
            await self._prepare()
            for host in self.hosts:
                host.start()
            with trio.CancelScope() as story:
                async with trio.open_nursery() as watch:
                    watch.start_soon(self._stop_when_found, story)
                    async with trio.open_nursery() as tellers:
                        for number, item in enumerate(self.plan.items):
                            tellers.start_soon(self._happen, number, item)
                    await trio.sleep_until(self.plan.healed)
                    # Nobody waits any longer: what is hit now would not be whole again in time.
                    self._ambushes.clear()
                    await self._converge()
                    watch.cancel_scope.cancel()
            seconds = trio.current_time()
            for host in self.hosts:
                host.end()
            self.nursery.cancel_scope.cancel()
        figures: dict[str, float] = {
            "transactions": self.database.transactions,
            "packets": self.network.delivered,
            "placements": len(self.database.placements),
            "processes": sum(host.lives for host in self.hosts),
            "requests accepted": len(self.people.accepted),
            "requests refused": self.people.refused,
            "requests without answer": self.people.unanswered,
            "epochs": len(self.judge.boots),
        }
        faults = items.counts(self.plan.items) | self.server.injected
        return Result(
            self.plan,
            tuple(self.judge.violations),
            faults,
            dict(self.judge.looks),
            seconds,
            time.perf_counter() - began,
            self._hash.hexdigest(),
            figures,
        )

    async def _prepare(self) -> None:
        store = Store(LocalUnits(self.database))
        await store.images.create("simulated", id=self.image_id)
        await store.images.ready(self.image_id, "sha256:model", ImageConfig(entrypoint=("/app",)), 1)

    async def _stop_when_found(self, story: trio.CancelScope) -> None:
        await self.judge.found.wait()
        story.cancel()

    async def _converge(self) -> None:
        deadline = trio.current_time() + CONVERGED_WITHIN
        while why := self.judge.at_end():
            if trio.current_time() >= deadline:
                for what in why:
                    rule, _, rest = what.partition(": ")
                    self.judge.complain(f"converged: {rule}", rest)
                return
            await trio.sleep(LOOK_EVERY)

    # --- what happens

    async def _happen(self, number: int, item: items.Item) -> None:
        await trio.sleep_until(item.at)
        self.trace("plan", f"{number} {item}")
        if isinstance(item, items.Request):
            await self.people.ask(number, item)
        else:
            await self._break(item)

    async def _break(self, item: items.Item) -> None:
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
                self.network.hold(self._host(host).name)
                await self._go_on(self._host(host), seconds)
            case items.Cut(host=host, seconds=seconds, way=way):
                await self._cut(self._host(host).name, seconds, way)
            case items.Stall(host=host, seconds=seconds):
                self.network.stall(self._host(host).name, DATABASE, seconds)
                self.network.stall(DATABASE, self._host(host).name, seconds)
            case items.Slow(host=host, seconds=seconds, mean=mean):
                name = self._host(host).name
                self.network.delay(name, DATABASE, Delay(mean / 2, mean / 2, 5 * mean))
                await trio.sleep(seconds)
                self.network.delay(name, DATABASE, None)
            case items.LinkCut() | items.LinkHold() | items.LinkStall() | items.LinkSlow() | items.Split():
                await self._break_links(item)
            case items.Outage(seconds=seconds):
                self.server.shut_down()
                await trio.sleep(seconds)
                self.server.down = False
            case items.Aborts(seconds=seconds, share=share):
                self.server.aborts = share
                await trio.sleep(seconds)
                self.server.aborts = 0.0
            case items.LostAnswers(seconds=seconds, share=share):
                self.server.lost_answers = share
                await trio.sleep(seconds)
                self.server.lost_answers = 0.0
            case items.LostHints(seconds=seconds, share=share):
                self.server.lost_hints = share
                await trio.sleep(seconds)
                self.server.lost_hints = 0.0
            case items.ClockStep(host=host, step=step):
                env = self.database_env if host < 0 else self._host(host).env
                env.step_clock(step)
            case items.Ambush():
                self._ambushes.append(item)
            case items.AppCrash(instance=instance):
                self._app_crash(self.instance_id(instance))
            case items.MemberCrash(group=group):
                self._member_crash(self.group_id(group))
            case items.Deaf(instance=instance):
                self._deafen(self.instance_id(instance))
            case items.FailStart(host=host, seconds=seconds, job=job):
                await self._fail_starts(self._host(host), seconds, job)
            case _:
                raise AssertionError(f"nobody knows how to do {item}")

    def _trouble(self, seconds: float) -> None:
        """Note that for so long hosts may rightly be taken for dead."""
        self.troubled = max(self.troubled, trio.current_time() + seconds)

    def _host(self, number: int) -> SimulatedHost:
        return self.hosts[number % len(self.hosts)]

    async def _dark(self, host: SimulatedHost, seconds: float) -> None:
        """Nothing is heard of a machine that is down; those who speak to it hear of that only when it is up again."""
        self.network.hold(host.name)
        await trio.sleep(seconds)
        for other in (DATABASE, *(one.name for one in self.hosts if one is not host)):
            self.network.reset(host.name, other)
        self.network.release(host.name)

    async def _go_on(self, host: SimulatedHost, seconds: float) -> None:
        await trio.sleep(seconds)
        host.env.release()
        self.network.release(host.name)

    async def _break_links(self, item: items.Item) -> None:
        match item:
            case items.LinkCut(host=host, other=other, seconds=seconds, way=way):
                await self._cut(self._host(host).name, seconds, way, self._host(other).name)
            case items.LinkHold(host=host, other=other, seconds=seconds):
                await self._hold_link(self._host(host).name, self._host(other).name, seconds)
            case items.LinkStall(host=host, other=other, seconds=seconds):
                self.network.stall(self._host(host).name, self._host(other).name, seconds)
                self.network.stall(self._host(other).name, self._host(host).name, seconds)
            case items.LinkSlow(host=host, other=other, seconds=seconds, mean=mean):
                link = self._host(host).name, self._host(other).name
                self.network.delay(*link, Delay(mean / 2, mean / 2, 5 * mean))
                await trio.sleep(seconds)
                self.network.delay(*link, None)
            case items.Split(host=host, count=count, seconds=seconds, database=database):
                side = {self._host(host + place).name: None for place in range(count)}
                rest = [one.name for one in self.hosts if one.name not in side] + [DATABASE] * database
                async with trio.open_nursery() as nursery:
                    for inside in side:
                        for outside in rest:
                            nursery.start_soon(self._cut, inside, seconds, "both", outside)

    async def _hold_link(self, one: str, other: str, seconds: float) -> None:
        for link in ((one, other), (other, one)):
            self.network.hold_link(*link)
        await trio.sleep(seconds)
        for link in ((one, other), (other, one)):
            self.network.release_link(*link)

    async def _cut(self, host: str, seconds: float, way: str, other: str = DATABASE) -> None:
        links = [(host, other)] * (way in ("both", "out")) + [(other, host)] * (way in ("both", "in"))
        for link in links:
            self.network.cut(*link)
        await trio.sleep(seconds)
        for link in links:
            self.network.heal(*link)

    def _app_crash(self, instance_id: UUID) -> None:
        for _, placement, machine in self.all_machines():
            if placement.instance_id == instance_id:
                machine.crash_app()

    def _member_crash(self, group_id: UUID) -> None:
        for _, placement, machine in self.all_machines():
            instance = self.database.instances.get(placement.instance_id)
            if instance is not None and instance.group_id == group_id and machine.running:
                machine.crash_app()
                return

    def _deafen(self, instance_id: UUID) -> None:
        self.deaf[instance_id] = None
        for _, placement, machine in self.all_machines():
            if placement.instance_id == instance_id:
                machine.deaf = True

    async def _fail_starts(self, host: SimulatedHost, seconds: float, job: str) -> None:
        host.set_fails(job)
        await trio.sleep(seconds)
        host.set_fails("")


def simulate(plan: Plan, bugs: frozenset[Bug] = frozenset(), *, log: list[str] | None = None) -> Result:
    """Run a plan and return what became of it. ``log`` gets a line for whatever happens."""

    async def main() -> Result:
        return await World(plan, bugs, log=log).main()

    with _quiet(), _no_collection(), planted(bugs):
        try:
            return run(main, seed=plan.seed)
        except BaseException as error:
            error.add_note(f"world of seed {plan.seed}, {plan.hosts} hosts")
            raise


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the log empty: worlds are full of trouble."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Let the garbage wait: when it is collected must not change what happens."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
        gc.collect()
