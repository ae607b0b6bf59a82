"""A host in memory: a machine that outlives host processes, a database, and the doubles around the real actors.

Everything that a real process does to the outside goes through its `Life`. A killed life still unwinds, as Python
must, but nothing that it does then reaches machine or database.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import trio

from actors.model.errors import Failed
from actors.model.paths import HostPaths
from actors.model.records import Placement
from actors.vm.intent import Intent
from actors.vm.machine import Acceleration
from actors.vm.messages import Leftover
from actors.vm.outcome import Evidence
from actors.vm.process import Identity, PidFile, boot_id
from actors.vm.recover import Found, Recovery, judged
from actors.vm.work import Launch, Launched

ID, NODE = UUID(int=1), UUID(int=2)
CLUSTER = "cluster-a"
NOWHERE = HostPaths(Path("/nowhere/data"), Path("/nowhere/run"))
#: Seconds from power-on to the app, and from the request to the end.
BOOT, HALT = 0.05, 0.1


def _refuse(what: str) -> None:
    raise AssertionError(what)


class Life:
    """One life of the host process."""

    def __init__(self) -> None:
        self.dead = False

    async def going_on(self) -> None:
        """Wait while the process is held. Here it never is."""


@dataclass(eq=False)
class Process:
    """A monitor. ``nonce`` is of the start that it belongs to."""

    identity: Identity
    nonce: str
    life: Life
    configured: bool = False
    paused: bool = False
    asked: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    status: int = 0

    def end(self, status: int) -> None:
        if not self.ended.is_set():
            self.status = status
            self.ended.set()


@dataclass
class Machine:
    """What exists of one placement on its host. ``fails`` names the work that fails; ``deaf`` guests ignore requests,
    ``crashes`` end by themselves. It has to ask for its image ``fetching`` times in vain, a second each. ``wrong`` is
    told what must never be; ``boot`` is the present boot of the host.
    """

    guests: trio.Nursery
    boot: Callable[[], str] = boot_id
    wrong: Callable[[str], None] = _refuse
    boots_in: float = BOOT
    spawned: Callable[[], None] = lambda: None
    taken_over: Callable[[bool], None] = lambda _: None
    pace: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
    ids: Iterator[int] = field(default_factory=lambda: itertools.count(1000))
    fails: str = ""
    fetching: int = 0
    deaf: bool = False
    crashes: int = 0
    intent: Intent | None = None
    pid_file: PidFile | None = None
    disk: int = 0
    disks: int = 0
    half_disk: bool = False
    tap: bool = False
    rules: bool = False
    run: bool = False
    jail: bool = False
    group: bool = False
    logs: bool = False
    console: bytes = b""
    processes: list[Process] = field(default_factory=list)
    said: dict[str, Evidence] = field(default_factory=dict)

    @property
    def running(self) -> list[Process]:
        return [process for process in self.processes if not process.ended.is_set()]

    def held(self) -> set[str]:
        """Everything of the placement that is here, its intent, log and console aside."""
        things = {
            "disk": self.disk,
            "half a disk": self.half_disk,
            "TAP": self.tap,
            "rules": self.rules,
            "run directory": self.run,
            "PID file": self.pid_file,
            "jail": self.jail,
            "cgroup": self.group,
            "monitor": self.running,
        }
        return {name for name, there in things.items() if there}

    def spawn(self, life: Life, nonce: str) -> Process:
        if self.running:
            self.wrong("a second monitor")
        if self.intent is None or self.intent.nonce != nonce:
            self.wrong("a monitor of which no intent tells")
        missing = {"disk", "TAP", "rules", "run directory", "jail", "cgroup"} - self.held()
        if missing:
            self.wrong(f"a monitor without its {', '.join(sorted(missing))}")
        number = next(self.ids)
        process = Process(Identity(number, 4000 + number, self.boot()), nonce, life)
        self.processes.append(process)
        self.spawned()
        return process

    def crash_app(self) -> None:
        """Let the app of a guest that runs end by itself, with status 3."""
        for process in self.running:
            if process.nonce in self.said:
                self.said[process.nonce] = Evidence(started=True, status=3)
                process.end(0)

    def power_on(self, process: Process) -> None:
        if process.configured:
            self.wrong("configured twice")
        process.configured = True
        self.guests.start_soon(self._guest, process)

    async def _guest(self, process: Process) -> None:
        """The guest and its monitor: they belong to no life of the host."""
        with trio.move_on_after(self.boots_in):
            await process.ended.wait()
            return
        self.console += f"[zeitwork {process.nonce}] started pid=2\n".encode()
        self.said[process.nonce] = Evidence(started=True)
        if self.crashes:
            self.crashes -= 1
            with trio.move_on_after(1.0):
                await process.ended.wait()
                return
            self.said[process.nonce] = Evidence(started=True, status=3)
            process.end(0)
            return
        async with trio.open_nursery() as nursery:

            async def killed() -> None:
                await process.ended.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(killed)
            await process.asked.wait()
            while process.paused:  # noqa: ASYNC110 - one that is held still hears nothing
                await trio.sleep(0.05)
            if self.deaf:
                await trio.sleep_forever()
            await trio.sleep(HALT)
            if not process.ended.is_set():
                self.said[process.nonce] = Evidence(started=True, signal=15)
                process.end(0)
            nursery.cancel_scope.cancel()


class Handle:
    """`actors.vm.process.VmProcess` of one life."""

    def __init__(self, life: Life, process: Process) -> None:
        self._life, self._process = life, process

    @property
    def identity(self) -> Identity:
        return self._process.identity

    @property
    def pid(self) -> int:
        return self._process.identity.pid

    @property
    def running(self) -> bool:
        return not self._process.ended.is_set()

    async def wait(self) -> int | None:
        await self._process.ended.wait()
        return self._process.status if self._process.life is self._life else None

    def send(self, number: signal.Signals) -> None:
        if not self._life.dead:
            self._process.end(-number)

    async def kill(self, deadline: float = 5.0) -> bool:
        self.send(signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
        return True

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class ModelPidFile(PidFile):
    """Written to the machine in memory."""

    where: tuple[Life, Machine] | None = None

    def write(self, run: Path) -> None:
        assert self.where is not None
        life, machine = self.where
        if not life.dead:
            machine.pid_file = self

    def update(self, run: Path, **changes: Any) -> PidFile:
        new = replace(self, **changes)
        new.write(run)
        return new


@dataclass(frozen=True)
class Monitors:
    """The hypervisor."""

    life: Life
    machine: Machine
    binary: Path = Path("/nowhere/model")
    name: str = "model"
    acceleration: Acceleration = Acceleration.KVM
    lasting_channel: bool = False

    async def version(self) -> str:
        return "1"

    async def request_shutdown(self, run: Path, attempt: int) -> None:
        await trio.lowlevel.checkpoint()
        process = self._one()
        if not self.life.dead:
            process.asked.set()
        await trio.lowlevel.checkpoint()

    async def paused(self, run: Path) -> bool:
        await trio.lowlevel.checkpoint()
        return self._one().paused

    async def pause(self, run: Path) -> None:
        await self._hold(True)

    async def resume(self, run: Path) -> None:
        await self._hold(False)

    async def _hold(self, paused: bool) -> None:
        await trio.lowlevel.checkpoint()
        if not self.life.dead:
            self._one().paused = paused
        await trio.lowlevel.checkpoint()

    def _one(self) -> Process:
        if not self.machine.running:
            raise Failed("nobody listens")
        return self.machine.running[0]


class ModelOperations:
    """`actors.vm.operations.Operations` on the machine in memory, in parts between which a life can be killed."""

    def __init__(self, life: Life, machine: Machine, placement: Placement, cluster: str = CLUSTER) -> None:
        self._life, self._machine, self._placement, self._cluster = life, machine, placement, cluster

    async def _thread(self, *parts: Callable[[], None], name: str = "") -> None:
        """Do what really happens in a thread: once begun, a cancellation does not stop it, a kill does."""
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):
            for part in parts:
                await self._machine.pace()
                await self._life.going_on()
                if self._life.dead:
                    return
                part()
            await trio.lowlevel.checkpoint()
            await self._life.going_on()
        if name and name == self._machine.fails:
            raise Failed(f"{name} failed")

    def _set(self, **fields: Any) -> Callable[[], None]:
        def change() -> None:
            for name, value in fields.items():
                setattr(self._machine, name, value)

        return change

    def _intend(self, intent: Intent) -> Callable[[], None]:
        return self._set(intent=intent)

    async def recover(self) -> Recovery:
        machine, placement = self._machine, self._placement
        await self._thread()
        process, strays = None, []
        for found in machine.running:
            handle: Any = Handle(self._life, found)
            if machine.pid_file is not None and machine.pid_file.identity == found.identity:
                process = handle
            else:
                strays.append(handle)
        pid_file = machine.pid_file and replace(machine.pid_file, where=(self._life, machine))  # type: ignore[call-arg]
        recovery = Recovery(Found.NOTHING, machine.intent, pid_file, process, strays)
        judged(recovery, placement.generation, placement.state, placement.boot_id, machine.boot())
        if recovery.found is Found.RUNNING:
            intent, running = machine.intent, machine.running[0] if machine.running else None
            meant = intent is not None and not intent.parked and intent.generation == placement.generation
            whole = running is not None and running.configured and intent is not None and intent.nonce == running.nonce
            machine.taken_over(meant and whole)
        return recovery

    async def choose(self) -> Any:
        await self._thread(name="choose")
        return Monitors(self._life, self._machine)

    async def make_disk(self, restore: UUID | None) -> None:
        machine = self._machine

        def named() -> None:
            machine.disks += 1
            machine.disk, machine.half_disk = machine.disks, False

        if not machine.disk:
            await self._thread(name="template")
            try:
                await self._thread(self._set(half_disk=True), name="disk")
                await self._thread(named)
            finally:
                if not self._life.dead:
                    machine.half_disk = False

    async def start(self, launch: Launch) -> Launched:
        machine, life, placement = self._machine, self._life, self._placement
        intent = Intent(
            placement=str(placement.id),
            instance=str(placement.instance_id),
            generation=placement.generation,
            cluster=self._cluster,
            cgroup="zeitwork/model",
            tap=launch.tap.name,
            hypervisor="model",
            acceleration="kvm",
            vmm_version="1",
            guest="1",
            nonce=launch.nonce,
            boot_id=machine.boot(),
            agent=0,
        )
        await trio.lowlevel.checkpoint()  # its version
        fresh = self._set(pid_file=None, run=False, logs=False)
        marked = self._set(console=machine.console + f"\n[zeitwork] next start {launch.nonce}\n".encode())
        await self._thread(fresh, self._set(run=True), marked, self._intend(intent), name="intent")
        begun = self._set(jail=True, logs=True)
        await self._thread(begun, self._set(group=True), name="jail")
        if life.dead:
            await trio.sleep_forever()
        process = machine.spawn(life, launch.nonce)
        handle: Any = Handle(life, process)
        try:
            pid_file = ModelPidFile(process.identity, intent.cgroup, True, "model", where=(life, machine))
            pid_file.write(NOWHERE.run)
            for _ in range(3):
                await machine.pace()
                await life.going_on()
            if machine.fails == "boot":
                raise Failed("boot failed")
            if not life.dead:
                machine.power_on(process)
            await trio.lowlevel.checkpoint()
            booted = pid_file.update(NOWHERE.run, booted=True)
        except BaseException:
            await handle.kill()
            raise
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
        return Launched(handle, booted, intent)

    def _ended(self, what: str) -> None:
        if self._machine.running and not self._life.dead:
            self._machine.wrong(f"its {what} is dropped under a running monitor")

    async def park(self, intent: Intent) -> Intent:
        parked = replace(intent, parked=True)
        await self._thread(self._set(intent=parked))
        return parked

    async def drop_disk(self) -> None:
        self._ended("disk")
        await self._thread(self._set(disk=0), self._set(half_disk=False))

    async def drop_machine(self) -> None:
        self._ended("machine")
        await self._thread(
            self._set(jail=False), self._set(pid_file=None), self._set(run=False), self._set(group=False)
        )

    async def forget(self) -> None:
        await self._thread(self._set(logs=False), self._set(intent=None))

    async def evidence(self, nonce: str, *, started: bool, status: int | None, ran: float | None) -> Evidence:
        await self._thread()
        said = self._machine.said.get(nonce, Evidence())
        return replace(said, started=said.started or started, vmm_status=status, ran=ran)

    def reader(self) -> Any:
        machine = self._machine

        class Reader:
            at = 0

            def read(self) -> bytes:
                new = machine.console[self.at :]
                self.at += len(new)
                return new

        return Reader()


@dataclass
class ModelLeftovers:
    """`actors.host.ports.Leftovers` of the machines in memory, by placement."""

    life: Life
    machines: Mapping[UUID, Machine]

    async def scan(self, known: Collection[UUID]) -> tuple[Leftover, ...]:
        await trio.lowlevel.checkpoint()
        found = []
        for placement_id, machine in self.machines.items():
            intent = machine.intent
            if placement_id in known or (intent is None and not machine.held()):
                continue
            pid = machine.running[0].identity.pid if machine.running else None
            cluster = intent.cluster if intent is not None else None
            found.append(Leftover(placement_id, cluster, pid, "model", intent.tap if intent is not None else ""))
        return tuple(found)

    async def strangers(self, known: Collection[UUID]) -> tuple[str, ...]:
        await trio.lowlevel.checkpoint()
        return ()

    async def destroy(self, leftover: Leftover) -> None:
        machine = self.machines[leftover.placement_id]

        def kill() -> None:
            for process in machine.running:
                process.end(-9)

        def drop(**fields: Any) -> Callable[[], None]:
            def change() -> None:
                for name, value in fields.items():
                    setattr(machine, name, value)

            return change

        for change in (
            kill,
            drop(tap=False),
            drop(rules=False),
            drop(jail=False),
            drop(pid_file=None, run=False),
            drop(group=False),
            drop(disk=0, half_disk=False),
            drop(logs=False),
            drop(intent=None),
        ):
            await trio.lowlevel.checkpoint()
            await self.life.going_on()
            if self.life.dead:
                return
            change()

    async def prune(self) -> int:
        await trio.lowlevel.checkpoint()
        return 0
