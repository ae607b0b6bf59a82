"""A world: hosts, a database, a network and people; a plan of what is done to them; a judge."""

from __future__ import annotations

import gc
import hashlib
import logging
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any
from unittest import mock
from uuid import UUID

import structlog
import trio

import zeitwork.cluster
import zeitwork.leave
import zeitwork.peers
from actors.model.image import ImageConfig
from actors.model.records import Placement
from runtime.simulation import Delay, HostEnvironment, Listeners, Network, run
from tests.actors.vm.simulated import Life, Machine, ModelOperations
from tests.simulation import plan as items
from tests.simulation.faults import Faults
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
        self.injected: dict[str, int] = {}
        self._hash = hashlib.sha256()
        self._chance = random.Random(f"{plan.seed} world")
        self.nursery: trio.Nursery
        self.database_env = HostEnvironment(plan.seed)
        self.database = Database(self.database_env.now, random.Random(f"{plan.seed} ids"), rest=60.0, bugs=bugs)
        self.network = Network(random.Random(f"{plan.seed} network"), Delay(0.0003, 0.001, 1.0))
        self.listeners = Listeners()
        #: Whether hosts are linked with each other.
        self.linked = bool(plan.settings.get("links", False))
        self.server = Server(self.database, self.network, random.Random(f"{plan.seed} server"))
        self.judge = Judge(self)
        self.database.committed = self._committed
        #: Whether machines may become hosts that are none at first.
        self.invites = any(isinstance(item, items.Invite) for item in plan.items)
        machines = int(plan.settings.get("machines", 0))
        self.hosts = [
            SimulatedHost(
                self,
                number,
                UUID(int=0xA0000 + number),
                environment(plan.seed, number),
                claimed=number < plan.hosts,
                code=f"code {number}",
            )
            for number in range(plan.hosts + machines)
        ]
        self.people = People(self)
        self.image_id = UUID(int=0x1111)
        self.faults = Faults(self)
        self.server.passing = self.faults.passing

    # --- what is what

    def instance_id(self, number: int) -> UUID:
        """Return the id that a person gives an instance."""
        return UUID(int=0xF0000 + number)

    def group_id(self, number: int) -> UUID:
        """Return the id that a person gives a group."""
        return UUID(int=0xE0000 + number)

    def guest_id(self, number: int) -> UUID:
        """Return the id that a person gives the node of a host that is invited."""
        return UUID(int=0xC0000 + number)

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
                    self.faults.ambushes.clear()
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
            await self.faults.do(item)


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
    quiet = structlog.get_logger()
    try:
        # What has bound a logger as it was imported keeps that one.
        with ExitStack() as patches:
            for module in (zeitwork.cluster, zeitwork.leave, zeitwork.peers):
                patches.enter_context(mock.patch.object(module, "_log", quiet))
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
