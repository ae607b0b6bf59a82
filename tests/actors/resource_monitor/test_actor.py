from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest
import trio

from actors.model.errors import Failed, Unavailable
from actors.model.resources import Capacity
from actors.resource_monitor import actor
from actors.resource_monitor.actor import ResourceMonitor
from actors.resource_monitor.admission import Thresholds
from actors.resource_monitor.bulletin import decode
from actors.resource_monitor.capacity import CapacityPolicy
from actors.resource_monitor.herald import Herald
from actors.resource_monitor.messages import Monitor, Pressure, Refresh, Snapshot
from actors.resource_monitor.pressure import cpu_waiting, memory_pressure
from actors.resource_monitor.store import Usage
from runtime import Ref, Spec, System
from tests.actors.resource_monitor.machine import GIB, Machine

NODE = UUID(int=7)


class Store:
    """Remembers what was written; refuses while ``away``."""

    def __init__(self) -> None:
        self.written: list[Capacity] = []
        self.refused = 0
        self.away = False
        self.changed = trio.Event()
        self.reason = ""  # why the host is closed
        self.reasons: list[str] = []  # each that was written
        self.told = trio.Event()

    async def closed(self, node_id: UUID) -> str:
        assert node_id == NODE
        await trio.lowlevel.checkpoint()
        if self.away:
            raise Unavailable("the database is away")
        return self.reason

    async def record_closed(self, node_id: UUID, reason: str) -> None:
        assert node_id == NODE
        await trio.lowlevel.checkpoint()
        if self.away:
            raise Unavailable("the database is away")
        self.reason = reason
        self.reasons.append(reason)
        told, self.told = self.told, trio.Event()
        told.set()

    async def record_capacity(self, node_id: UUID, capacity: Capacity) -> None:
        assert node_id == NODE
        await trio.lowlevel.checkpoint()
        changed, self.changed = self.changed, trio.Event()
        changed.set()
        if self.away:
            self.refused += 1
            raise Unavailable("the database is away")
        self.written.append(capacity)


@asynccontextmanager
async def monitor(root: Path, store: Store, **more: object) -> AsyncIterator[Ref]:
    async with System() as system:
        yield await system.start(
            Spec("resource-monitor", lambda: ResourceMonitor(store, NODE, root=root, **more))  # type: ignore[arg-type]
        )


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


async def test_capacity_is_recorded_at_the_start_and_then_only_when_it_changes(machine: Machine, store: Store) -> None:
    first = store.changed
    async with monitor(machine.root, store) as ref:
        with trio.fail_after(90):
            await first.wait()
        for _ in range(3):
            snapshot = await ref.ask(Snapshot(), timeout=90)
        assert [capacity.memory_total for capacity in store.written] == [16 * 1024]
        assert snapshot.capacity == store.written[0]
        assert (snapshot.memory_used, snapshot.memory_available) == (4096, 12288)

        changed = store.changed
        machine.v2("/a")
        machine.write("sys/fs/cgroup/a/memory.max", 2 * GIB)
        ref.tell(Refresh())
        with trio.fail_after(90):
            await changed.wait()
        assert store.written[-1].memory_total == 2048


async def test_a_change_is_noticed_without_being_told(
    machine: Machine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor, "EVERY", 0.02)
    first = store.changed
    async with monitor(machine.root, store):
        with trio.fail_after(90):
            await first.wait()
            changed = store.changed
            machine.write("proc/meminfo", "MemTotal: 33554432 kB\nMemAvailable: 33000000 kB")
            await changed.wait()
        assert [capacity.memory_total for capacity in store.written] == [16 * 1024, 32 * 1024]


async def test_what_the_database_did_not_take_is_offered_again(
    machine: Machine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor, "EVERY", 0.02)
    store.away = True
    async with monitor(machine.root, store) as ref:
        with trio.fail_after(90):
            while store.refused < 3:
                await store.changed.wait()
            # The host's own view does not depend on the database.
            assert (await ref.ask(Snapshot(), timeout=90)).capacity.memory_total == 16 * 1024
            store.away = False
            while not store.written:
                await store.changed.wait()


async def test_many_who_ask_at_once_share_readings_and_each_gets_a_fresh_one(machine: Machine, store: Store) -> None:
    async with monitor(machine.root, store) as ref:
        found: list[float] = []

        async def ask() -> None:
            found.append((await ref.ask(Snapshot(), timeout=90)).at)

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(ask)
        assert len(found) == 100
        assert len(set(found)) <= 3


async def test_a_machine_that_can_not_be_read_is_said_to_who_asks_and_heals(machine: Machine, store: Store) -> None:
    meminfo = machine.root / "proc/meminfo"
    text = meminfo.read_text()
    meminfo.unlink()
    async with monitor(machine.root, store) as ref:
        with pytest.raises(Failed, match="meminfo"):
            await ref.ask(Snapshot(), timeout=90)
        machine.write("proc/meminfo", text)
        assert (await ref.ask(Snapshot(), timeout=90)).capacity.memory_total == 16 * 1024


async def test_the_overhead_follows_the_hypervisor_once_it_is_known(machine: Machine, store: Store) -> None:
    chosen: list[str] = []
    policy = CapacityPolicy(overhead={"firecracker": 10, "qemu": 100})
    async with monitor(machine.root, store, policy=policy, hypervisor=lambda: chosen[0] if chosen else None) as ref:
        assert (await ref.ask(Snapshot(), timeout=90)).capacity.memory_overhead == 100
        chosen.append("firecracker")
        assert (await ref.ask(Snapshot(), timeout=90)).capacity.memory_overhead == 10


async def test_this_machine(store: Store) -> None:
    first = store.changed
    async with monitor(Path("/"), store) as ref:
        snapshot = await ref.ask(Snapshot(), timeout=90)
        with trio.fail_after(90):
            await first.wait()
    assert snapshot.capacity.vcpu >= 1
    assert 0 < snapshot.capacity.memory <= snapshot.capacity.memory_total
    assert store.written == [snapshot.capacity]


AT_ONCE = Thresholds(close=20.0, calm=0.0)
CALM = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0"
BUSY = "some avg10=41.20 avg60=9.00 avg300=2.00 total=99\nfull avg10=7.00 avg60=1.00 avg300=0.00 total=9"


async def test_pressure_closes_the_host_and_calm_opens_it(
    machine: Machine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor, "EVERY", 0.02)
    machine.write("proc/pressure/memory", BUSY)
    told = store.told
    async with monitor(machine.root, store, thresholds=AT_ONCE):
        with trio.fail_after(90):
            await told.wait()
            assert "waited for memory 41 %" in store.reason
            told = store.told
            machine.write("proc/pressure/memory", CALM)
            await told.wait()
    assert len(store.reasons) == 2
    assert store.reason == ""


async def test_a_restart_does_not_open_a_closed_host(
    machine: Machine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor, "EVERY", 0.02)
    store.reason = "memory pressure: found by the process before"
    machine.write("proc/pressure/memory", CALM)
    async with monitor(machine.root, store, thresholds=Thresholds(calm=3600.0)) as ref:
        for _ in range(20):
            await ref.ask(Snapshot(), timeout=90)
    assert store.reasons == []
    told = store.told
    async with monitor(machine.root, store, thresholds=AT_ONCE):
        with trio.fail_after(90):
            await told.wait()
    assert store.reasons == [""]


async def test_closing_waits_for_a_database_that_is_away(
    machine: Machine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor, "EVERY", 0.02)
    machine.write("proc/pressure/memory", BUSY)
    store.away = True
    told = store.told
    async with monitor(machine.root, store):
        with trio.fail_after(90):
            while store.refused < 3:
                await store.changed.wait()
            store.away = False
            await told.wait()
    assert len(store.reasons) == 1


def test_the_pressure_in_a_container_counts_where_it_is_worse(machine: Machine) -> None:
    machine.write("proc/pressure/memory", CALM)
    machine.v2("/")
    machine.write("sys/fs/cgroup/memory.pressure", BUSY)
    found = memory_pressure(machine.root)
    assert found is not None
    assert found.some_avg10 == 41.2


async def test_huge_pages_and_changed_limits_are_noticed(machine: Machine, store: Store) -> None:
    async with monitor(machine.root, store) as ref:
        before = await ref.ask(Snapshot(), timeout=90)
        assert before.hugepages == ()
        pages = "sys/kernel/mm/hugepages/hugepages-2048kB"
        machine.write(f"{pages}/nr_hugepages", 1024)
        machine.write(f"{pages}/free_hugepages", 1000)
        machine.v2("/a")
        machine.write("sys/fs/cgroup/a/cpu.max", "50000 100000")
        after = await ref.ask(Snapshot(), timeout=90)
        assert [(found.size, found.total, found.free) for found in after.hugepages] == [(2048, 1024, 1000)]
        assert after.cpus == 0.5
        # 1024 pages of 2 MiB are set aside.
        assert after.capacity.memory_total == before.capacity.memory_total - 2048


class Samples:
    """Remembers samples; refuses the first one."""

    def __init__(self) -> None:
        self.tries = 0
        self.written: list[Usage] = []
        self.enough = trio.Event()

    async def record_sample(self, node_id: UUID, usage: Usage) -> None:
        assert node_id == NODE
        await trio.lowlevel.checkpoint()
        self.tries += 1
        if self.tries == 1:
            raise Unavailable("the database is away")
        self.written.append(usage)
        if len(self.written) == 3:
            self.enough.set()


async def test_samples_are_taken_for_the_history(
    machine: Machine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor, "SAMPLE_EVERY", 0.02)
    machine.write("proc/stat", "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 100 0 100 800 0 0 0 0 0 0")
    samples = Samples()
    async with monitor(machine.root, store, history=samples) as ref:
        await ref.ask(Snapshot(), timeout=90)
        with trio.fail_after(90):
            await samples.enough.wait()
    assert set(samples.written) == {Usage(cpus=0.0, memory=4096, memory_total=16 * 1024)}


class Overheads:
    """Remembers what was told of overheads; refuses the first time."""

    def __init__(self) -> None:
        self.tries = 0
        self.told: list[tuple[dict[UUID, int], dict[str, int]]] = []
        self.changed = trio.Event()

    async def record_overhead(self, node_id: UUID, readings: dict[UUID, int], peaks: dict[str, int]) -> None:
        assert node_id == NODE
        await trio.lowlevel.checkpoint()
        self.tries += 1
        if self.tries == 1:
            raise Unavailable("the database is away")
        self.told.append((dict(readings), dict(peaks)))
        changed, self.changed = self.changed, trio.Event()
        changed.set()


def takes(machine: Machine, pid: int, kib: int) -> None:
    guest = "7f0000000000-7f0008000000 rw-p 00000000 00:00 0 \nRss: 9000 kB\nPss: 9000 kB"
    own = f"7f1000000000-7f1009000000 rw-p 00000000 00:00 0 \nRss: {kib} kB\nPss: {kib} kB"
    machine.write(f"proc/{pid}/smaps", f"{guest}\n{own}")


async def test_what_monitors_take_is_told_and_charged(
    machine: Machine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor, "SURVEY_EVERY", 0.02)
    overheads, running = Overheads(), [Monitor(UUID(int=1), 11, 128, "firecracker")]
    known = trio.Event()

    async def monitors() -> list[Monitor]:
        await trio.lowlevel.checkpoint()
        if not known.is_set():
            raise Unavailable("the host actor is not there yet")
        return list(running)

    takes(machine, 11, 40 * 1024)
    more = {"monitors": monitors, "overheads": overheads, "hypervisor": lambda: "firecracker"}
    async with monitor(machine.root, store, **more) as ref:
        assert (await ref.ask(Snapshot(), timeout=90)).capacity.memory_overhead == 32
        told = overheads.changed
        known.set()
        with trio.fail_after(90):
            await told.wait()
            assert overheads.told == [({UUID(int=1): 40 * 1024}, {"firecracker": 40 * 1024})]
            assert (await ref.ask(Snapshot(), timeout=90)).capacity.memory_overhead == 52
            # What stays as it is is not told again.
            told = overheads.changed
            running.append(Monitor(UUID(int=2), 12, 128, "firecracker"))
            takes(machine, 12, 1024)
            await told.wait()
            told = overheads.changed
            running.clear()
            await told.wait()
        assert [set(readings) for readings, _ in overheads.told] == [{UUID(int=1)}, {UUID(int=1), UUID(int=2)}, set()]


async def test_a_restart_charges_what_was_learnt_before(machine: Machine, store: Store) -> None:
    more = {"peaks": {"firecracker": 40 * 1024}, "hypervisor": lambda: "firecracker"}
    async with monitor(machine.root, store, **more) as ref:
        assert (await ref.ask(Snapshot(), timeout=90)).capacity.memory_overhead == 52


class Conditions:
    """Remembers what was written; refuses while ``away``."""

    def __init__(self) -> None:
        self.written: list[tuple[str | None, float]] = []
        self.away = False
        self.asked = trio.Event()

    async def record_condition(self, node_id: UUID, hypervisor: str | None, pressure: float) -> None:
        assert node_id == NODE
        await trio.lowlevel.checkpoint()
        asked, self.asked = self.asked, trio.Event()
        asked.set()
        if self.away:
            raise Unavailable("the database is away")
        self.written.append((hypervisor, pressure))


async def test_hypervisor_and_pressure_are_written_when_they_change(machine: Machine, store: Store) -> None:
    conditions, chosen = Conditions(), [None, "qemu"]
    machine.write("proc/pressure/cpu", "some avg10=1.00 avg60=20.00 avg300=1.00 total=1")

    async with monitor(machine.root, store, conditions=conditions, hypervisor=lambda: chosen[0]) as ref:

        async def look() -> list[tuple[str | None, float]]:
            for _ in range(3):  # the write that a reading leads to is done before the one after it
                await ref.ask(Snapshot(), timeout=90)
            return conditions.written

        assert await look() == [(None, 0.2)]
        machine.write("proc/pressure/cpu", "some avg10=1.00 avg60=23.00 avg300=1.00 total=1")
        assert await look() == [(None, 0.2)]  # too little to tell
        machine.write("proc/pressure/cpu", "some avg10=1.00 avg60=90.00 avg300=1.00 total=1")
        assert await look() == [(None, 0.2), (None, 0.9)]
        chosen.pop(0)
        conditions.away = True
        assert len(await look()) == 2
        conditions.away = False
        assert await look() == [(None, 0.2), (None, 0.9), ("qemu", 0.9)]


@pytest.mark.parametrize(
    ("pressure", "load", "cpus", "share"),
    [
        (Pressure(99.0, 25.0, 0.0, 0.0), 9.0, 2.0, 0.25),
        (Pressure(0.0, 130.0, 0.0, 0.0), 0.0, 2.0, 1.0),
        (None, 1.0, 4.0, 0.25),
        (None, 9.0, 4.0, 1.0),
        (None, 0.0, 0.0, 0.0),
        (None, 1.0, 3.0, 0.33),
    ],
)
def test_the_share_of_waiting_for_a_cpu(pressure: Pressure | None, load: float, cpus: float, share: float) -> None:
    assert cpu_waiting(pressure, load, cpus) == share


async def test_the_other_hosts_are_told_how_it_is(machine: Machine, store: Store) -> None:
    told: list[bytes] = []

    def tell(data: bytes) -> bool:
        told.append(data)
        return True

    store.reason = "memory pressure: a lot"
    herald = Herald("h1", "0.1.0", tell)
    async with monitor(machine.root, store, herald=herald, hypervisor=lambda: "qemu") as ref:
        with trio.fail_after(90):
            while not told or not (found := decode(told[-1])) or not found.closed:
                await ref.ask(Snapshot(), timeout=90)
        assert (found.hostname, found.hypervisor, found.memory, found.memory_available) == ("h1", "qemu", 16384, 12288)
        assert herald.latest == found
        # Nothing has changed: nothing is said.
        count = len(told)
        for _ in range(5):
            await ref.ask(Snapshot(), timeout=90)
        assert len(told) == count
