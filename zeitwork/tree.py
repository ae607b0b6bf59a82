"""The composition root: the one place where a host process is put together.

Order matters and is the reverse at the end: data directory, database, store, node, network, actors, doors. Doors open
last, so that whoever reaches the endpoint reaches a host that can do its work.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import structlog
import trio

from actors.addresses.actor import Addresses
from actors.addresses.messages import NAME as ADDRESSES
from actors.commands.counts import Counts as CommandCounts
from actors.commands.dispatcher import dispatcher
from actors.commands.messages import DISPATCHER, Dispatch
from actors.commands.messages import NAME as COMMANDS
from actors.commands.receiver import receiver
from actors.health.actor import Health
from actors.health.messages import NAME as HEALTH
from actors.health.messages import Wake as HealthWake
from actors.host.actor import Host
from actors.host.messages import NAME as HOST
from actors.host.messages import StopAll, Vms
from actors.host.messages import Wake as HostWake
from actors.images.actor import Images
from actors.images.messages import NAME as IMAGES
from actors.images.messages import Wake as ImagesWake
from actors.ipam_lease.actor import IpamLease
from actors.model.errors import Conflict, Failed, Problem
from actors.model.ids import short_id
from actors.model.paths import HostPaths
from actors.model.records import Placement
from actors.model.states import NodeState
from actors.registrar.actor import NAME as PRESENCE
from actors.registrar.actor import Presence
from actors.registrar.inviter import NAME as INVITER
from actors.registrar.inviter import Inviter
from actors.registrar.pulse import Pulse
from actors.registrar.watch_actor import Watch
from actors.resource_monitor.actor import ResourceMonitor
from actors.resource_monitor.admission import Thresholds
from actors.resource_monitor.capacity import CapacityPolicy
from actors.resource_monitor.messages import NAME as MONITOR
from actors.resource_monitor.messages import Monitor, Snapshot
from actors.scheduler.actor import Scheduler
from actors.scheduler.counts import Counts
from actors.scheduler.messages import Evaluate
from actors.tap.actor import TapActor
from actors.tap.actor import actor_name as tap_name
from actors.tap.network import NetworkHost
from actors.tap.pools import choose_region_pool, look_at_network
from actors.vm.actor import VmActor
from actors.vm.guest import CONSOLE, GuestImage
from actors.vm.jail import possible as jail_possible
from actors.vm.leftovers import VmLeftovers
from actors.vm.machine import Hypervisor
from actors.vm.messages import Stop
from actors.vm.probe import Candidates, choose, find_qemu
from actors.vm.settings import HypervisorChoice, VmSettings, cgroup_parent
from actors.vm.snapshots import SnapshotFiles
from runtime import ActorError, Environment, Message, RealEnvironment, Ref, Spec, System
from runtime.elector import NAME as ELECTION
from runtime.elector import Elector, LeaseChanged, elector
from runtime.lease import Candidate
from runtime.office import Office
from zeitwork import __version__, machine, ownership, systemd
from zeitwork.advertised import advertised
from zeitwork.api.app import build_app
from zeitwork.api.bind import validate_http_bind
from zeitwork.api.deps import ApiDeps
from zeitwork.api.server import Listening, serve
from zeitwork.config import DEFAULT_RUN_DIR, Config
from zeitwork.epochs import EpochFile
from zeitwork.guest.kernel import load_guest
from zeitwork.invite import LateInviting
from zeitwork.leave import leave, removed, removed_here
from zeitwork.members import Members
from zeitwork.relay import Relay
from zeitwork.store import Store, open_store
from zeitwork.store.embedded import EmbeddedServer
from zeitwork.store.problems import disk_full
from zeitwork.store.rows import HostRegistration, NodeRow

if TYPE_CHECKING:
    from zeitwork.cluster import Linked, Membership

_log = structlog.get_logger()

#: Seconds for VMs to stop when the process was told to stop them; each has its own, shorter, time.
STOP_VMS_DEADLINE = 120.0
#: Seconds in which answers that are under way still go out.
LAST_WORD = 0.5


@dataclass(slots=True)
class RunningHost:
    """A host that is up. ``lost`` is set when it must end by itself, with the reason in ``problem``."""

    node_id: UUID
    socket: Path
    url: str | None
    system: System
    hypervisors: HypervisorChoice
    members: Members
    scheduler: Counts = field(default_factory=Counts)
    dispatcher: CommandCounts = field(default_factory=CommandCounts)
    #: None without links to others.
    linked: Linked | None = None
    lost: trio.Event = field(default_factory=trio.Event)
    problem: Problem | None = None
    #: Its signs of life are no longer taken.
    superseded: trio.Event = field(default_factory=trio.Event)
    #: It is no longer of its cluster.
    left: bool = False
    #: What is done last of all, while nobody else can have the data directory yet.
    last: ExitStack = field(default_factory=ExitStack)

    async def hypervisor(self) -> str:
        """Return what runs VMs here, such as ``qemu (tcg)``. Raises `Unavailable` when nothing can."""
        chosen = await self.hypervisors.get()
        return f"{chosen.name} ({chosen.acceleration.value})"

    def leave(self, forget: Callable[[], None]) -> None:
        """Make the process end in order because this host has left its cluster; ``forget`` is called last of all."""
        if not self.left:
            self.left = True
            self.last.callback(forget)

    def lose(self, problem: Problem) -> None:
        """Make the process end with ``problem``; VMs stay."""
        # One that has left is no node any more, which others may tell it before its process has ended.
        if self.problem is None and not self.left:
            self.problem = problem
            self.lost.set()


async def run_host(config: Config) -> None:
    """Run a host until cancelled. Raises `Problem` when it can't start, or can't go on."""
    async with open_host(config) as host:
        systemd.notify("READY=1")
        _log.info("host is up", node=str(host.node_id), url=host.url, socket=str(host.socket))
        try:
            await host.lost.wait()
            if host.left:
                # Whoever asked for it hears that it was done.
                await trio.sleep(LAST_WORD)
        finally:
            systemd.notify("STOPPING=1")
        if host.problem is not None:
            raise host.problem


@asynccontextmanager
async def open_host(config: Config) -> AsyncIterator[RunningHost]:
    """Bring a host up, yield it, and take it down; VMs stay unless ``config.stop_vms``.

    Raises `Problem` when something it needs is missing or in use; nothing then stays half-done.
    """
    paths, env = config.paths, RealEnvironment()
    validate_http_bind(config.http)
    with ownership.hold(config.data_dir), _tidied(paths), ExitStack() as last:
        guest = await trio.to_thread.run_sync(_prepare, config, paths)
        host_id = machine.host_id(config.data_dir, env)
        membership = await _membership(config, host_id, env)
        address = advertised(config, membership)
        refused = trio.Event()
        async with _database(config, paths, membership, refused) as dsn, _store(dsn) as store:
            cluster = await store.cluster.identity()
            node = await store.nodes.register(await _registration(config, host_id))
            async with _network(config, node) as network:
                hypervisors = HypervisorChoice(partial(_choose, config, paths, guest))
                if config.hypervisor != "auto":
                    # Whoever insists learns at once that it can't be; otherwise the first VM finds out.
                    await hypervisors.get()
                cores = max(1, len(os.sched_getaffinity(0)))
                settings = VmSettings(
                    paths=paths,
                    cluster_id=str(cluster.id),
                    guest=guest,
                    hypervisors=hypervisors,
                    cgroup=cgroup_parent(config.tag),
                    uid_base=config.vm_uid_base,
                    dns=machine.resolvers(),
                    boots=trio.Semaphore(cores),
                    starts=trio.Semaphore(4 * cores),
                )
                async with System(env) as system:
                    members = Members(
                        node.id, node.generation, env.monotonic, hostname=node.hostname, version=__version__
                    )
                    host = RunningHost(node.id, config.api_socket, None, system, hypervisors, members, last=last)
                    await _start_actors(config, settings, store, node, network, host)
                    try:
                        if address is not None:
                            from zeitwork.cluster import start_links

                            host.linked = await start_links(
                                config, membership, address, store, system, node, host_id, env
                            )
                            members.linked = host.linked
                        # Known before anybody can ask: nobody is told that this host has nothing.
                        measured = await system.name(MONITOR).ask(Snapshot(), timeout=10)
                        await store.nodes.record_capacity(node.id, measured.capacity)
                        await store.nodes.set_state(node.id, NodeState.READY)
                        async with (
                            _doors(config, store, host, node, settings) as listening,
                            trio.open_nursery() as tasks,
                        ):
                            tasks.start_soon(_learn, hypervisors, name="hypervisor probe")
                            tasks.start_soon(_end_when_superseded, store, host, name="superseded")
                            tasks.start_soon(_end_when_refused, refused, host, name="refused")
                            host.url = listening.url
                            yield host
                            tasks.cancel_scope.cancel()
                    finally:
                        with trio.CancelScope(shield=True):
                            await _leave(config, store, host)


@contextmanager
def _tidied(paths: HostPaths) -> Iterator[None]:
    """Remove the directories for sockets at the end, as far as nothing that outlives the process is in them."""
    try:
        yield
    finally:
        for directory in (paths.run / "postgres", paths.run / "vm", paths.run):
            with suppress(OSError):
                directory.rmdir()


def _prepare(config: Config, paths: HostPaths) -> GuestImage:
    """Make directories and find the guest kernel. Runs in a thread: it may have to unpack one."""
    try:
        for directory in (paths.images, paths.spool, paths.placements, paths.run / "vm", config.api_socket.parent):
            directory.mkdir(parents=True, exist_ok=True)
        # Members of the socket's group pass through here; what is secret below has modes of its own.
        paths.run.chmod(0o755)
        paths.placements.chmod(0o700)
        (paths.run / "vm").chmod(0o700)
        paths.spool.chmod(0o700)
    except OSError as error:
        raise (
            disk_full(error, config.data_dir)
            or Failed(f"{error.filename} can't be made: {error.strerror}", field="data_dir")
        ) from None
    guest = load_guest(paths, kernel=config.kernel, initrd=config.initrd)
    return GuestImage(guest.vmlinux, guest.initrd, guest.version)


async def _membership(config: Config, host_id: UUID, env: Environment) -> Membership | None:
    """Return what this host is a member of, None while it is alone. Raises a `Problem` when it can't join."""
    # What reads certificates takes a while to import, and a host that is alone has none.
    told = config.join is not None or config.token is not None or config.unclaimed
    if not told and not (config.data_dir / "trust").exists():
        return None
    from zeitwork.cluster import membership_of

    return await membership_of(config, host_id, env)


@asynccontextmanager
async def _database(
    config: Config, paths: HostPaths, membership: Membership | None, refused: trio.Event
) -> AsyncIterator[str]:
    """Yield a DSN: the given one, the cluster's, or that of an embedded server which runs as long as this.

    ``refused`` is set when it is the cluster's and other hosts let this one through to it no more.
    """
    if config.database_url is not None:
        yield config.database_url
        return
    if membership is not None:
        if membership.database is not None:
            yield membership.database
            return
        from zeitwork.cluster import tunnelled

        async with tunnelled(config, membership, refused) as dsn:
            yield dsn
        return
    async with EmbeddedServer(paths.postgres, paths.run / "postgres").running() as server, trio.open_nursery() as tasks:
        tasks.start_soon(server.supervise, name="embedded postgres")
        yield server.dsn
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def _store(dsn: str) -> AsyncIterator[Store]:
    async with open_store(dsn) as store, trio.open_nursery() as tasks:
        tasks.start_soon(store.run, name="store notifications")
        yield store
        tasks.cancel_scope.cancel()


async def _registration(config: Config, host_id: UUID) -> HostRegistration:
    facts = await trio.to_thread.run_sync(look_at_network)
    v4 = config.ipv4_pool or choose_region_pool(facts.taken)
    return HostRegistration(
        host_id=host_id,
        hostname=machine.hostname(),
        boot_id=machine.boot_id(),
        region=config.region,
        region_v6=config.ipv6_prefix,
        region_v4=v4,
        ipv6=facts.ipv6,
        version=__version__,
        labels=config.label,
        architecture=machine.architecture(),
    )


@asynccontextmanager
async def _network(config: Config, node: NodeRow) -> AsyncIterator[NetworkHost]:
    """Yield this host's network; its table and routes go with the last VM, not before."""
    assert node.network is not None
    network = NetworkHost(node.network, config.tag, config.data_dir / "sysctl.json")
    await network.start()
    try:
        yield network
    finally:
        with trio.move_on_after(15, shield=True):
            await network.close()


async def _learn(hypervisors: HypervisorChoice) -> None:
    """Find out beforehand what runs VMs here: a probe may take seconds, and the first VM should not wait for it."""
    try:
        await hypervisors.get()
    except Problem as problem:
        _log.error("no VM can run here", reason=problem.detail, fix=problem.fix)


async def _end_when_refused(refused: trio.Event, host: RunningHost) -> None:
    """End the process once other hosts let this one through to the database no more; what runs here stays.

    That it may be removed, only the database could say.
    """
    await refused.wait()
    host.lose(removed_here())


async def _end_when_superseded(store: Store, host: RunningHost) -> None:
    """End the process once the database says that this host is another one, or none any more."""
    await host.superseded.wait()
    try:
        gone = (await store.nodes.get(host.node_id)).state is NodeState.TERMINATED
    except Problem:
        gone = False
    if gone and not host.left:
        # What was placed here is removed with it, which is done here now if it can be.
        await removed(host)
        host.lose(removed_here())
    host.lose(
        Conflict(
            "another process has registered as this host",
            field="data_dir",
            fix="two processes share a copy of one data directory: give one of them another",
        )
    )


async def _choose(config: Config, paths: HostPaths, guest: GuestImage) -> Hypervisor:
    candidates = Candidates(
        firecracker=find_firecracker(config, paths),
        qemu=find_qemu(),
        guest=guest,
        run=paths.run,
        cgroup=cgroup_parent(config.tag),
        memory=DEFAULT_RUN_DIR,
        jailer=find_jailer(config, paths),
        jails=paths.data / "probe-jail",
        uid=config.vm_uid_base,
    )
    return await choose(config.hypervisor, candidates)


def find_firecracker(config: Config, paths: HostPaths) -> Path | None:
    """Return Firecracker's binary: the configured one, setup's, or the one on PATH."""
    if config.firecracker is not None:
        return config.firecracker
    own = paths.bin / "firecracker"
    if own.exists():
        return own
    found = shutil.which("firecracker")
    return Path(found) if found else None


def find_jailer(config: Config, paths: HostPaths) -> Path | None:
    """Return the jailer's binary: the configured one, the one beside Firecracker, or the one on PATH.

    None when it is off, not here, or can't work by itself: jails hold devices and programs.
    """
    if config.jailer == "off":
        return None
    if config.jailer != "auto":
        return Path(config.jailer)
    if not jail_possible():
        _log.warning("no jails in a chroot", fix="run the host where / is a mount point")
        return None
    try:
        flags = os.statvfs(config.data_dir).f_flag
    except OSError:
        flags = 0
    if flags & (os.ST_NODEV | os.ST_NOEXEC):
        _log.warning("no jails where devices or programs are forbidden", data_dir=str(config.data_dir))
        return None
    firecracker = find_firecracker(config, paths)
    beside = None if firecracker is None else firecracker.resolve().with_name("jailer")
    if beside is not None and beside.exists():
        return beside
    found = shutil.which("jailer")
    return Path(found) if found else None


async def _start_actors(
    config: Config,
    settings: VmSettings,
    store: Store,
    node: NodeRow,
    network: NetworkHost,
    host: RunningHost,
) -> None:
    """Start the tree below ``system``, in the order in which its parts need each other."""
    paths, system = settings.paths, host.system

    def make_tap(placement: Placement) -> Spec:
        return Spec(tap_name(placement.id), lambda: TapActor(placement.id, placement.lease, network))

    def make_vm(placement: Placement, tap: Ref, owner: Ref, stop: Stop | None) -> Spec:
        # Temporary: the host itself notices an end and starts what is still wanted.
        return Spec(
            f"vm/{short_id(placement.id)}",
            lambda: VmActor(placement, settings, store.placements, store.snapshots, tap=tap, host=owner, stop=stop),
            restart="temporary",
            init_timeout=60.0,
            stop_timeout=10.0,
        )

    async def monitors() -> tuple[Monitor, ...]:
        view = await system.name(HOST).ask(Vms(), timeout=5)
        return tuple(
            Monitor(vm.placement_id, vm.pid, vm.memory, vm.hypervisor)
            for vm in view.vms
            if vm.pid is not None and vm.hypervisor is not None
        )

    def monitor() -> ResourceMonitor:
        policy = CapacityPolicy(
            vcpu_reserved=config.vcpu_reserved,
            memory_reserved=config.memory_reserved,
            vcpu_overcommit=config.vcpu_overcommit,
            memory_overcommit=config.memory_overcommit,
        )
        chosen = settings.hypervisors
        return ResourceMonitor(
            store.nodes,
            node.id,
            policy,
            hypervisor=lambda: chosen.chosen.name if chosen.chosen else None,
            history=store.history,
            monitors=monitors,
            overheads=store.nodes,
            peaks=node.overhead_peaks,
            conditions=store.nodes,
            herald=host.members.herald,
            thresholds=Thresholds(close=config.memory_pressure),
        )

    # Drawn once: what follows a failed elector of this process is the same candidate.
    candidate = Candidate(node.id, node.generation, UUID(bytes=system.env.entropy(16), version=4))
    epochs = EpochFile(config.data_dir / "epoch")
    pulse = Pulse()

    def reach(node_id: UUID) -> Ref | None:
        return None if host.linked is None else host.linked.actor(node_id, COMMANDS)

    inviting = LateInviting(config, store.invitations, lambda: host.linked, system.env)

    def leader(office: Office) -> list[Spec]:
        return [
            Spec("registrar", lambda: Watch(store.presence, office, node.id, host.members.sightings, pulse)),
            Spec("scheduler", lambda: Scheduler(store.scheduling, office, host.scheduler)),
            dispatcher(store.commands, office, node.id, reach, host.dispatcher),
            Spec(INVITER, lambda: Inviter(store.invitations, inviting, office)),
        ]

    leftovers = VmLeftovers(paths, settings.cgroup, network.drop, network.names)
    files = SnapshotFiles(paths.snapshots, settings.cluster_id)
    wakes: dict[str, tuple[tuple[str, ...], Callable[[], Message]]] = {
        HOST: (("zw_placements", "zw_snapshots"), lambda: HostWake("notified", quick=True)),
        HEALTH: (("zw_placements", "zw_observed"), lambda: HealthWake("notified")),
        IMAGES: (("zw_images",), lambda: ImagesWake("notified")),
        ELECTION: (("zw_leader",), LeaseChanged),
        # Of a placement's changes only its removal matters here, and that is told as its instance's too.
        "scheduler": (("zw_instances", "zw_images", "zw_nodes"), lambda: Evaluate("notified")),
        DISPATCHER: (("zw_placements", "zw_nodes"), lambda: Dispatch("notified")),
    }
    for spec in (
        Spec(PRESENCE, lambda: Presence(store.presence, node.id, node.generation, host.superseded.set, pulse)),
        Spec(MONITOR, lambda: monitor()),
        Spec(ADDRESSES, lambda: Addresses(store.nodes, node.id)),
        Spec("ipam-lease", lambda: IpamLease(store.leases, node.id)),
        Spec(IMAGES, lambda: Images(store.images, node.id, paths)),
        Spec(
            HOST,
            lambda: Host(
                node.id, settings.cluster_id, store.placements, store.snapshots, leftovers, make_tap, make_vm, files
            ),
            stop_timeout=15.0,
        ),
        receiver(node.id, epochs, system.name(HOST)),
        Spec(HEALTH, lambda: Health(node.id, store.placements, system.name(HOST))),
        elector(lambda: Elector(store.election, candidate, epochs, leader)),
        Spec("relay", lambda: Relay(store.notifications, wakes)),
    ):
        await system.start(spec)


@asynccontextmanager
async def _doors(
    config: Config, store: Store, host: RunningHost, node: NodeRow, settings: VmSettings
) -> AsyncIterator[Listening]:
    paths = settings.paths
    deps = ApiDeps(
        store=store,
        system=host.system,
        paths=paths,
        node_id=node.id,
        version=__version__,
        console=lambda placement_id: paths.placement(placement_id) / CONSOLE,
        agents=settings.agents,
        scheduler=host.scheduler,
        dispatcher=host.dispatcher,
        join_address=None if host.linked is None else str(host.linked.address),
        members=host.members,
        leave=partial(leave, config, store, host),
    )
    async with trio.open_nursery() as nursery:
        listening: Listening = await nursery.start(
            partial(serve, build_app(deps), http=config.http, socket=config.api_socket)
        )
        yield listening
        nursery.cancel_scope.cancel()


async def _leave(config: Config, store: Store, host: RunningHost) -> None:
    """Say goodbye: stop VMs if told to, and write that this host's process is gone; the others hear it, too."""
    # A process that never came up (its port was taken, say) has no business ending what an earlier one started.
    if config.stop_vms and host.url is not None and host.problem is None and not host.left:
        try:
            stopped = await host.system.name(HOST).ask(StopAll(STOP_VMS_DEADLINE), timeout=STOP_VMS_DEADLINE + 5)
        except ActorError as error:
            _log.error("VMs not stopped", error=str(error))
        else:
            _log.info("VMs stopped", all=stopped)
    if host.problem is None and host.linked is not None:
        await host.linked.depart()
    if host.problem is None and not host.left:
        try:
            with trio.fail_after(5):
                # A sign of life that is under way would bring back what says goodbye.
                await host.system.stop(PRESENCE)
                await store.nodes.set_state(host.node_id, NodeState.DOWN, "its process was stopped")
        except (Problem, trio.TooSlowError) as error:
            _log.warning("not written that this host is down", error=str(error))
