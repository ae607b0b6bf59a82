"""A host falls silent: how long until what ran there runs elsewhere?

The real election, watch and scheduler of a leader on a real Postgres. Hosts are stand-ins that give signs of life and
take a second to boot what is placed on them. What other hosts say of the silent one is what real processes with real
links say, of which its own is stopped at that moment; a cluster without links has the database's silence alone.
"""

from __future__ import annotations

import ipaddress
import queue
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from uuid import UUID, uuid4

import trio

from actors.model.image import ImageConfig
from actors.model.records import Observation
from actors.model.resources import Capacity, Resources
from actors.model.states import NodeState, PlacementState
from actors.registrar.actor import Presence
from actors.registrar.pulse import Pulse
from actors.registrar.sightings import Seen, Sighting
from actors.registrar.watch_actor import Watch
from actors.scheduler.actor import Scheduler
from actors.scheduler.messages import Evaluate
from bench._crowd import Crowd
from bench.question import Answer, Question
from runtime import Spec, System
from runtime.elector import Elector, elector
from runtime.lease import Candidate
from runtime.office import Office
from zeitwork.epochs import EpochFile
from zeitwork.relay import Relay
from zeitwork.store import Store, open_store
from zeitwork.store.embedded import EmbeddedServer
from zeitwork.store.rows import HostRegistration, NewInstance, NodeRow
from zeitwork.store.system_user import find_user

#: Seconds: what a boot takes here, and within which all of it must be over.
BOOT, PATIENCE = 1.0, 150.0
INSTANCES = 50
#: Processes that have links, and the numbers of those that speak for the hosts here.
LINKED = 5
LEADER, FIRST, SPARE = 1, 2, 3
#: Elsewhere by then (seconds).
TARGET = 15.0
_POLL = 0.05


def ask(quick: bool) -> Iterator[Answer]:
    """Measure each; seconds."""
    count, ours = 3 if quick else INSTANCES, "silent until all it ran runs elsewhere"
    if find_user() is None:
        yield Answer(ours, None, "the database's system user does not exist; zeitwork setup makes it")
        return
    taken, dead = _measure(count, linked=True)
    yield Answer(ours, taken, f"{count} instances, boot {BOOT:g} s")
    yield Answer("  until the leader's host holds it dead", dead, f"{LINKED} hosts with links", apart=True)
    if not quick:
        taken, _ = _measure(count, linked=False)
        yield Answer("  without links", taken, "the database's word alone", apart=True)
    yield Answer("upstream", 60.0, "60 to 90 s", apart=True)


def _measure(count: int, *, linked: bool) -> tuple[float, float | None]:
    with tempfile.TemporaryDirectory(prefix="zeitwork-bench-", dir="/run") as made, ExitStack() as stack:
        directory = Path(made)
        directory.chmod(0o755)  # the database's own user passes through it
        crowd = None
        if linked:
            crowd = Crowd(directory, LINKED, stack)
            crowd.all_know()
        return trio.run(_run, directory, count, crowd)


async def _run(directory: Path, count: int, crowd: Crowd | None) -> tuple[float, float | None]:
    server = EmbeddedServer(directory / "data", directory / "postgres")
    await server.start()
    found: list[tuple[float, float | None]] = []
    try:
        async with open_store(server.dsn) as store, trio.open_nursery() as nursery:
            nursery.start_soon(store.run)
            found.append(await _Cluster(store, directory, crowd).fail_over(count))
            nursery.cancel_scope.cancel()
    finally:
        await server.stop()
    return found[0]


class _Cluster:
    """A leader, a host that will fall silent, and one that has room for what that ran."""

    def __init__(self, store: Store, directory: Path, crowd: Crowd | None) -> None:
        self._store = store
        self._directory = directory
        self._crowd = crowd
        self._numbers: dict[int, NodeRow] = {}
        self._since = 0.0
        #: When the leader's process held the silent one dead.
        self._dead: float | None = None

    async def fail_over(self, count: int) -> tuple[float, float | None]:
        """Return the seconds from the silence until everything runs on the other host, and until it was held dead."""
        store = self._store
        # The leader's own host has no room for any.
        leader, first = await self._host("leader", 64), await self._host("first", 65536)
        pulse, taken = Pulse(), 0.0
        async with System() as system, trio.open_nursery() as nursery:
            await system.start(
                Spec("presence", lambda: Presence(store.presence, leader.id, leader.generation, _nobody, pulse))
            )

            def subtree(office: Office) -> list[Spec]:
                return [
                    Spec("registrar", lambda: Watch(store.presence, office, leader.id, self._sightings, pulse)),
                    Spec("scheduler", lambda: Scheduler(store.scheduling, office)),
                ]

            candidate = Candidate(leader.id, leader.generation, uuid4())
            memory = EpochFile(self._directory / "epoch")
            await system.start(elector(lambda: Elector(store.election, candidate, memory, subtree)))
            wakes = {"scheduler": (("zw_instances", "zw_images", "zw_nodes"), Evaluate)}
            await system.start(Spec("relay", lambda: Relay(store.notifications, wakes)))
            life = trio.CancelScope()
            nursery.start_soon(self._live, first, life)
            image = await self._image(first)
            for _ in range(count):
                await store.instances.create(NewInstance(image, Resources(1, 128), 8080))
            await self._running(first, count)
            spare = await self._host("spare", 65536)
            self._numbers = {LEADER: leader, FIRST: first, SPARE: spare}
            nursery.start_soon(self._live, spare, trio.CancelScope())
            # Hosts have given signs for longer than it takes to believe their silence.
            await trio.sleep(0.0 if count < INSTANCES else 12.0)
            self._since = time.monotonic()
            life.cancel()
            if self._crowd is not None:
                self._crowd.take(FIRST, signal.SIGSTOP)
            taken = await self._running(spare, count) - self._since
            nursery.cancel_scope.cancel()
        return taken, None if self._dead is None else self._dead - self._since

    async def _host(self, name: str, memory: int) -> NodeRow:
        network = ipaddress.IPv4Network("10.128.0.0/16")
        node = await self._store.nodes.register(HostRegistration(uuid4(), name, "boot", region_v4=network))
        await self._store.nodes.record_capacity(node.id, Capacity(64, memory, 0, 0, 4.0, 1.0, 24))
        return await self._store.nodes.set_state(node.id, NodeState.READY)

    async def _image(self, node: NodeRow) -> UUID:
        image = await self._store.images.create("registry.example/app:1")
        await self._store.images.claim_pending(node.id)
        await self._store.images.ready(image.id, f"sha256:{image.id.hex}", ImageConfig(cmd=("app",)), 1)
        return image.id

    async def _live(self, node: NodeRow, life: trio.CancelScope) -> None:
        """Give signs of life, and run what is placed here a while after it was."""
        with life:
            async with System() as system, trio.open_nursery() as nursery:
                await system.start(
                    Spec("presence", lambda: Presence(self._store.presence, node.id, node.generation, _nobody))
                )
                booting: set[UUID] = set()
                while True:
                    for placement in await self._store.placements.placements(node.id):
                        if placement.id not in booting:
                            booting.add(placement.id)
                            nursery.start_soon(self._boot, placement.id)
                    await trio.sleep(_POLL)

    async def _boot(self, placement: UUID) -> None:
        await trio.sleep(BOOT)
        seen = Observation(PlacementState.RUNNING, pid=1, hypervisor="qemu", boot_id="boot")
        await self._store.placements.observe(placement, list(PlacementState), seen)

    async def _running(self, node: NodeRow, count: int) -> float:
        """Wait until so many run there; return when that was."""
        with trio.fail_after(PATIENCE):
            while True:
                placements = await self._store.placements.placements(node.id)
                if sum(placement.state is PlacementState.RUNNING for placement in placements) >= count:
                    return time.monotonic()
                await trio.sleep(_POLL)

    def _sightings(self) -> Mapping[UUID, Sighting]:
        """Say what the leader's process has heard."""
        if self._crowd is None:
            return {}
        with suppress(queue.Empty):
            while True:
                by, kind, about, at = self._crowd.heard.get_nowait()
                if (by, kind, about) == (LEADER, "dead", FIRST):
                    self._dead = at
        said = {}
        for number, node in self._numbers.items():
            if number != LEADER:
                seen = Seen.DEAD if number == FIRST and self._dead is not None else Seen.ALIVE
                said[node.id] = Sighting(node.id, node.generation, seen)
        return said


def _nobody() -> None:
    """Nobody takes this host's place."""


QUESTION = Question("host_failover", "host silent to its instances running elsewhere", "s", "lower", ask, target=TARGET)
