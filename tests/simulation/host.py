"""A host of a world: a machine with what outlives its processes, and those processes, made of the real actors."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import trio

from actors.commands.messages import DISPATCHER, Dispatch
from actors.commands.receiver import receiver
from actors.host.actor import Host as HostActor
from actors.host.messages import NAME as HOST
from actors.host.messages import Wake as HostWake
from actors.images.messages import NAME as IMAGES
from actors.ipam_lease.actor import IpamLease
from actors.model.errors import Conflict, Problem
from actors.model.records import Placement
from actors.model.resources import Capacity
from actors.model.states import NodeState
from actors.registrar.actor import NAME as PRESENCE
from actors.registrar.actor import Presence
from actors.registrar.pulse import Pulse
from actors.scheduler.messages import Evaluate
from actors.tap.actor import actor_name as tap_name
from actors.vm.actor import VmActor, actor_name
from actors.vm.guest import GuestImage
from actors.vm.lifecycle import Limits
from actors.vm.messages import Stop
from actors.vm.settings import HypervisorChoice, VmSettings
from runtime import Message, Ref, Spec, System
from runtime.elector import NAME as ELECTION
from runtime.elector import Elector, LeaseChanged, elector
from runtime.lease import Candidate
from runtime.links.frames import Identity
from runtime.links.simulated import Stack
from runtime.membership.events import Notice, Superseded
from runtime.simulation import HostEnvironment
from tests.actors.vm.simulated import NOWHERE, Life, Machine, ModelLeftovers, Monitors
from tests.actors.vm.simulated_store import NoSnapshots, Taps
from tests.simulation.echo import NAME as ECHO
from tests.simulation.echo import Echoes
from tests.simulation.inviting import Inviting
from tests.simulation.leader import leader
from tests.simulation.leaving import Member, knock
from tests.simulation.links import WatchedBoard, WatchedReceiver, start_links
from tests.simulation.parts import Epochs, Images
from tests.simulation.reach import Listener, ProcessLife, RemoteUnits
from tests.simulation.store import Store
from zeitwork.relay import Relay
from zeitwork.store.rows import HostRegistration
from zeitwork.tree import _end_when_superseded

if TYPE_CHECKING:
    from tests.simulation.world import World

#: Seconds that a guest takes from power-on to its app.
BOOT = 1.0
#: Seconds until a process that ended by itself is started again.
RESTART = 2.0
#: Seconds that one step of work on the machine takes, on average.
PACE = 0.01
#: MiB that are charged for each monitor.
OVERHEAD = 32


@dataclass(eq=False)
class SimulatedHost:
    """What lasts. ``machines`` are by placement; ``wanted`` is until when its process must not run."""

    world: World
    number: int
    host_id: UUID
    env: HostEnvironment
    machines: dict[UUID, Machine] = field(default_factory=dict)
    epoch: int = 0
    boots: int = 1
    node_id: UUID | None = None
    fails: str = ""
    #: Whether it has what makes it a host of the cluster; ``code`` is what it shows while it has not.
    claimed: bool = True
    code: str = ""
    joining: bool = False
    #: Who its last process was, and how often it was tried to be that after it was removed.
    was: Identity | None = None
    knocks: int = 0
    life: ProcessLife | None = None
    system: System | None = None
    up_from: float = 0.0
    lives: int = 0
    _ids: Any = field(default_factory=lambda: itertools.count(1000))
    _changed: trio.Event = field(default_factory=trio.Event)

    @property
    def name(self) -> str:
        """Its name, in the network and everywhere."""
        return f"h{self.number}"

    @property
    def boot(self) -> str:
        """The present boot of its kernel."""
        return f"{self.name}-boot-{self.boots}"

    # --- from the outside

    def start(self) -> None:
        """Have a process from now on, again and again, while it is a host."""
        if self.claimed:
            self._changed.set()
        self.world.nursery.start_soon(self._supervise, name=f"{self.name} supervisor")

    def kill(self, seconds: float, *, silently: bool = False) -> None:
        """End the process without a word; the next one begins after so long. ``silently``: not even its kernel says one
        to those it is connected with.
        """
        self._down(seconds)
        if self.life is not None:
            self.life.kill(silently=silently)

    def quit(self, seconds: float) -> None:
        """Ask the process to end."""
        self._down(seconds)
        if self.life is not None:
            self.life.over.set()

    def crash(self, seconds: float) -> None:
        """Lose the machine: processes, guests, and all that is only in memory."""
        self.kill(seconds, silently=True)
        self.boots += 1
        for machine in self.machines.values():
            for process in machine.running:
                process.end(-9)
            machine.run = machine.tap = machine.rules = machine.group = False
            machine.pid_file = None

    @property
    def belongs(self) -> bool:
        """Whether it is a host of the cluster, or will be as soon as it has a process."""
        node = self.world.database.nodes.get(self.node_id) if self.node_id is not None else None
        return self.claimed and not (node is not None and node.buried)

    def claim(self) -> None:
        """Become a host."""
        self.claimed = True
        self._changed.set()

    def forget(self) -> None:
        """Be no host any more, nor the one that it was if it ever becomes one again."""
        self.claimed, self.node_id, self.was, self.epoch, self.knocks = False, None, None, 0, 0
        self.host_id = UUID(int=self.host_id.int + 0x1000)
        self.code = f"code {self.host_id.int}"
        self._changed = trio.Event()

    def clean(self) -> None:
        """Lose all that is left of machines."""
        for machine in self.machines.values():
            for process in machine.running:
                process.end(-9)
            machine.run = machine.tap = machine.rules = machine.group = machine.jail = machine.logs = False
            machine.half_disk, machine.disk = False, 0
            machine.pid_file = machine.intent = None

    def end(self) -> None:
        """End with the world: whatever is held unwinds, too."""
        if self.life is not None:
            self.life.kill()
        self.env.release()

    def set_fails(self, job: str) -> None:
        """Let this job fail for every placement here, "" for none."""
        self.fails = job
        for machine in self.machines.values():
            machine.fails = job

    def _down(self, seconds: float) -> None:
        self.up_from = max(self.up_from, trio.current_time() + seconds)

    def machine(self, placement: Placement) -> Machine:
        """Return the machine of a placement, which may be nothing yet."""
        machine = self.machines.get(placement.id)
        if machine is None:
            world, placement_id = self.world, placement.id
            machine = self.machines[placement_id] = Machine(
                world.nursery,
                boot=lambda: self.boot,
                wrong=lambda what: world.judge.complain("machine rules", f"{self.name}, {placement_id}: {what}"),
                boots_in=BOOT,
                ids=self._ids,
                spawned=lambda: self._spawned(placement_id),
                taken_over=lambda rightly: world.judge.taken_over(self, placement_id, rightly),
                pace=self._pace,
            )
            machine.deaf = placement.instance_id in world.faults.deaf
        machine.fails = self.fails
        return machine

    def _spawned(self, placement_id: UUID) -> None:
        self.world.judge.spawned(self, placement_id)
        self.world.faults.passing(self.name, "spawned")

    async def _pace(self) -> None:
        """Take the time that a file, a device or a process takes."""
        await trio.sleep(self.env.random.expovariate(1 / PACE))

    # --- processes

    async def _supervise(self) -> None:
        """Run one process after the other, as a service manager does."""
        while True:
            await self._turn()
            self.lives += 1
            life = self.life = ProcessLife(self.env)
            ended = trio.Event()
            # What a killed process leaves unwinds by itself, beside the next one.
            self.world.nursery.start_soon(self._run, life, ended, name=f"{self.name} process {self.lives}")
            await _either(ended, life)
            if not life.dead:
                await ended.wait()
            if self.life is life:
                self.life = self.system = None
            if self.up_from <= trio.current_time():
                self.up_from = trio.current_time() + RESTART

    async def _turn(self) -> None:
        """Wait until it is time for a process: that may be put off, and the machine cease to be a host meanwhile."""
        while not self.claimed or self.up_from > trio.current_time():
            await self._changed.wait()
            await trio.sleep(max(0.0, self.up_from - trio.current_time()))

    async def _run(self, life: ProcessLife, ended: trio.Event) -> None:
        try:
            await self._process(life)
        except* Problem as problems:
            self.world.trace(self.name, f"process ends: {problems.exceptions[0]!r}")
        except* Exception as errors:
            self.world.judge.complain("processes do not fail", f"{self.name}: {errors.exceptions!r}")
        finally:
            if life.stack is not None:
                life.stack.end()
            ended.set()

    async def _process(self, life: ProcessLife) -> None:
        """`zeitwork.tree.open_host`, as far as there is a world for it."""
        store = Store(RemoteUnits(self.world.server, self.name, life))
        region = self.world.region
        try:
            node = await store.nodes.register(
                HostRegistration(self.host_id, self.name, self.boot, region_v4=region, version="simulated")
            )
        except Conflict:
            await knock(self, life, store)
            raise
        self.node_id, self.was = node.id, Identity(node.id, node.generation)
        listener = Listener(self.world.server, self.name, life, self.env)
        async with trio.open_nursery() as tasks:
            tasks.start_soon(listener.run, name=f"{self.name} listener")
            async with System(self.env) as system:
                member = Member(node.id, store, system, life.over)
                end_when_superseded: Any = _end_when_superseded
                tasks.start_soon(end_when_superseded, store, member)
                if not life.dead:
                    self.system = system
                await self._start_actors(system, life, store, self.was, listener, member)
                if self.world.linked:
                    await self._start_links(system, life, store, self.was)
                plan = self.world.plan
                await store.nodes.record_capacity(node.id, Capacity(plan.vcpu, plan.memory, 0, 0, 1.0, 1.0, OVERHEAD))
                await store.nodes.set_state(node.id, NodeState.READY)
                self.world.trace(self.name, "ready")
                life.member = member
                await life.over.wait()
                if not life.dead and member.problem is None:
                    await self._goodbye(system, life, store, member)
            tasks.cancel_scope.cancel()
        if member.left and not life.dead:
            self.forget()

    async def _goodbye(self, system: System, life: ProcessLife, store: Store, member: Member) -> None:
        if life.linked is not None:
            await life.linked.depart()
        if member.left:
            return
        with trio.move_on_after(5):
            await system.stop(PRESENCE)
            await store.nodes.set_state(member.node_id, NodeState.DOWN, "its process was stopped")

    async def _start_links(self, system: System, life: ProcessLife, store: Store, own: Identity) -> None:
        world = self.world
        life.stack = Stack(world.network, world.listeners, self.name)
        if life.dead:
            life.stack.end()

        def heard(notice: Notice | Superseded) -> None:
            if not life.dead:
                world.judge.heard(self, life, notice)

        cluster, board = world.database.cluster_id, WatchedBoard(self, life, own.host)
        linked = await start_links(system, life.stack, store.units, own, cluster, board, heard)
        life.linked = linked

        def others() -> list[UUID]:
            return [member.host for member in linked.members()]

        def echoes() -> Echoes:
            return Echoes(world.judge, self, life, own.host, others, lambda node: linked.actor(node, ECHO))

        await system.start(Spec(ECHO, echoes))

    async def _start_actors(
        self, system: System, life: ProcessLife, store: Store, own: Identity, listener: Listener, member: Member
    ) -> None:
        node_id, generation = own.host, own.generation
        cluster, make_machine = str(self.world.database.cluster_id), self.machine

        async def choose() -> Any:
            raise AssertionError("each machine chooses for itself")

        def control(name: str, acceleration: str) -> Any:
            raise AssertionError("each machine is controlled by its own")

        settings = VmSettings(
            paths=NOWHERE,
            cluster_id=cluster,
            guest=GuestImage(NOWHERE.data, NOWHERE.data, "1"),
            hypervisors=HypervisorChoice(choose),
            limits=lambda _: Limits(start=10.0, margin=1.0),
            control=control,
            boot=lambda: self.boot,
        )

        def make_tap(placement: Placement) -> Spec:
            return Spec(tap_name(placement.id), lambda: Taps(life, make_machine(placement)), restart="transient")

        def make_vm(placement: Placement, tap: Ref, host: Ref, stop: Stop | None) -> Spec:
            def factory() -> VmActor:
                machine = make_machine(placement)
                operations: Any = self.world.operations(life, machine, placement, cluster)
                mine = _with_control(settings, life, machine)
                return VmActor(
                    placement,
                    mine,
                    store.placements,
                    store.snapshots,
                    tap=tap,
                    host=host,
                    stop=stop,
                    operations=operations,
                )

            return Spec(actor_name(placement), factory, restart="temporary", init_timeout=60.0, stop_timeout=10.0)

        candidate = Candidate(node_id, generation, UUID(bytes=self.env.entropy(16), version=4))
        superseded, pulse, linked = member.superseded.set, Pulse(), self.world.linked
        inviting = Inviting(self, life, store) if self.world.invites else None
        lead = partial(leader, store, node_id, life, system, pulse, linked, inviting)
        wakes: dict[str, tuple[tuple[str, ...], Callable[[], Message]]] = {
            HOST: (("zw_placements", "zw_snapshots"), lambda: HostWake("notified", quick=True)),
            ELECTION: (("zw_leader",), LeaseChanged),
            "scheduler": (("zw_instances", "zw_images", "zw_nodes"), lambda: Evaluate("notified")),
        }
        if linked:
            wakes[DISPATCHER] = ("zw_placements", "zw_nodes"), lambda: Dispatch("notified")
        epochs, actor = Epochs(self, life), system.name(HOST)
        take_commands = replace(
            receiver(node_id, epochs, actor), factory=lambda: WatchedReceiver(self, life, node_id, epochs, actor)
        )
        leftovers = ModelLeftovers(life, self.machines)
        relay: Any = listener
        for spec in (
            Spec(PRESENCE, lambda: Presence(store.presence, node_id, generation, superseded, pulse)),
            Spec("ipam-lease", lambda: IpamLease(store.leases, node_id)),
            Spec(IMAGES, lambda: Images(self)),
            Spec(
                HOST,
                lambda: HostActor(
                    node_id, cluster, store.placements, store.snapshots, leftovers, make_tap, make_vm, NoSnapshots()
                ),
                stop_timeout=15.0,
            ),
            *([take_commands] if linked else []),
            elector(lambda: Elector(store.election, candidate, epochs, lead)),
            Spec("relay", lambda: Relay(relay, wakes)),
        ):
            await system.start(spec)


def _with_control(settings: VmSettings, life: Life, machine: Machine) -> VmSettings:
    monitors: Any = Monitors(life, machine)
    return replace(settings, control=lambda name, acceleration: monitors)


async def _either(ended: trio.Event, life: ProcessLife) -> None:
    """Wait until a process has ended, or was killed."""
    async with trio.open_nursery() as nursery:

        async def over() -> None:
            await life.over.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(over)
        await ended.wait()
        nursery.cancel_scope.cancel()


def environment(seed: int, number: int) -> HostEnvironment:
    """Return the clocks and the chance of one host."""
    return HostEnvironment(random.Random(f"{seed} host {number}").getrandbits(64))
