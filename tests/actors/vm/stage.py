"""Lives of the real host and VM actors in a simulation, one after the other, each killed where a test wants it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import trio

from actors.host.actor import Host
from actors.host.messages import StopAll, Wake
from actors.images.messages import NAME as IMAGES
from actors.model.records import Placement
from actors.model.states import PlacementState
from actors.tap.actor import actor_name as tap_name
from actors.vm.actor import VmActor, actor_name
from actors.vm.guest import GuestImage
from actors.vm.lifecycle import Limits
from actors.vm.messages import Stop
from actors.vm.settings import HypervisorChoice, VmSettings
from runtime import Ref, SimulatedEnvironment, Spec, System
from runtime.simulation import run
from tests.actors.vm.simulated import (
    CLUSTER,
    ID,
    NODE,
    NOWHERE,
    Life,
    Machine,
    ModelLeftovers,
    ModelOperations,
    Monitors,
)
from tests.actors.vm.simulated_store import Database, Images, NoSnapshots, Taps

#: Seconds of simulated time in which everything must have come to rest.
PATIENCE = 300.0


class Killer(trio.abc.Instrument):
    """Kills a life before the n-th step that any of its tasks takes once it is armed: at every await, that is."""

    def __init__(self, life: Life, at: int | None) -> None:
        self.armed = False
        self.steps = 0
        self._life, self._at = life, at
        self._killed = trio.Event()
        self.root: trio.lowlevel.Task | None = None
        self._ours: dict[trio.lowlevel.Task, bool] = {}
        self._marks: dict[int, trio.Event] = {}

    @property
    def killed(self) -> trio.Event:
        return self._killed

    def mark(self, step: int) -> trio.Event:
        """Return what is set before a step."""
        return self._marks.setdefault(step, trio.Event())

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if not self.armed or not self._belongs(task):
            return
        if self.steps == self._at and not self._life.dead:
            self._life.dead = True
            self._killed.set()
        event = self._marks.get(self.steps)
        if event is not None:
            event.set()
        self.steps += 1

    def _belongs(self, task: trio.lowlevel.Task) -> bool:
        found = self._ours.get(task)
        if found is None:
            parent = task.parent_nursery.parent_task if task.parent_nursery is not None else None
            found = task is self.root or (parent is not None and self._belongs(parent))
            self._ours[task] = found
        return found


@dataclass
class Stage:
    """What a script works with: machine, database and, while a life lasts, its host."""

    machine: Machine
    database: Database
    host: Any = None
    killer: Any = None

    def arm(self) -> None:
        """From here on steps count."""
        self.killer.armed = True

    def pause(self, paused: bool) -> None:
        self.database.row = replace(self.database.row, paused=paused)
        self.host.tell(Wake("test"))

    def stop(self, *, force: bool = False) -> None:
        self.database.row = replace(self.database.row, wanted=False, force=force)
        if self.host is not None:
            self.host.tell(Wake("test"))

    @property
    def up(self) -> bool:
        machine = self.machine
        noted = machine.pid_file is not None and machine.pid_file.app_started_at is not None
        runs = [process.paused for process in machine.running] == [False]
        return self.database.row.state is PlacementState.RUNNING and runs and noted

    @property
    def held_still(self) -> bool:
        """It is paused, and known to be."""
        still = [process.paused for process in self.machine.running]
        return still == [True] and self.database.row.state is PlacementState.PAUSED

    @property
    def gone(self) -> bool:
        machine = self.machine
        rest = machine.held() or machine.intent or machine.logs
        return self.database.row.state is PlacementState.REMOVED and not rest

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.move_on_after(PATIENCE) as scope:
            while not condition():  # noqa: ASYNC110 - what is waited for is everything
                await trio.sleep(0.1)
        assert not scope.cancelled_caught, (self.database.row, self.machine.held(), self.machine.intent)


#: What happens in one life.
Script = Callable[[Stage], Awaitable[None]]


def simulate(
    lives: Sequence[Script],
    kills: Sequence[int],
    *,
    between: Callable[[Stage], None] = lambda _: None,
    setup: Callable[[Stage], None] = lambda _: None,
    seed: int = 1,
) -> tuple[Stage, list[bool]]:
    """Run lives one after the other; return how all stands, and for each of ``kills`` whether it came to that.

    The n-th life is killed at the n-th of ``kills``, a count of steps; lives beyond these end in their own time.
    """
    happened: list[bool] = []

    async def main() -> Stage:
        # What is ready together runs in an order of this run's own, the same whenever it is repeated.
        async with trio.open_nursery() as guests:
            machine = Machine(guests)
            stage = Stage(machine, Database(machine))
            setup(stage)
            for number, script in enumerate(lives):
                at = kills[number] if number < len(kills) else None
                killed = await _live(stage, script, at, seed)
                if at is not None:
                    happened.append(killed)
                    between(stage)
            guests.cancel_scope.cancel()
        return stage

    return run(main, seed=seed), happened


async def _live(stage: Stage, script: Script, at: int | None, seed: int) -> bool:
    life = Life()
    killer = stage.killer = Killer(life, at)
    trio.lowlevel.add_instrument(killer)
    over = trio.Event()
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(_host, stage, life, over, seed)
            async with trio.open_nursery() as race:

                async def play() -> None:
                    await script(stage)
                    race.cancel_scope.cancel()

                race.start_soon(play)
                await killer.killed.wait()
                race.cancel_scope.cancel()
            killed = life.dead
            # Unwinding is not part of the life: after a kill nothing of it reaches the outside.
            killer.armed = False
            over.set()
        stage.host = None
        return killed
    finally:
        trio.lowlevel.remove_instrument(killer)


async def _host(
    stage: Stage, life: Life, over: trio.Event, seed: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    machine, store = stage.machine, stage.database.of(life)
    stage.killer.root = trio.lowlevel.current_task()

    async def choose() -> Any:
        return Monitors(life, machine)

    settings = VmSettings(
        paths=NOWHERE,
        cluster_id=CLUSTER,
        guest=GuestImage(NOWHERE.data, NOWHERE.data, "1"),
        hypervisors=HypervisorChoice(choose),
        limits=lambda _: Limits(start=10.0, margin=1.0),
        control=lambda name, acceleration: Monitors(life, machine),  # type: ignore[arg-type,return-value]
    )

    def make_tap(placement: Placement) -> Spec:
        return Spec(tap_name(placement.id), lambda: Taps(life, machine), restart="transient")

    def make_vm(placement: Placement, tap: Ref, host: Ref, stop: Stop | None) -> Spec:
        def factory() -> VmActor:
            operations: Any = ModelOperations(life, machine, placement)
            return VmActor(
                placement, settings, store, NoSnapshots(), tap=tap, host=host, stop=stop, operations=operations
            )

        return Spec(actor_name(placement), factory, restart="temporary", init_timeout=30)

    def make_host() -> Host:
        leftovers = ModelLeftovers(life, {ID: machine})
        return Host(NODE, CLUSTER, store, NoSnapshots(), leftovers, make_tap, make_vm, NoSnapshots())

    async with System(SimulatedEnvironment(seed)) as system:
        await system.start(Spec(IMAGES, lambda: Images(machine)))
        stage.host = await system.start(Spec("host", make_host))
        task_status.started()
        await over.wait()


async def park(stage: Stage) -> None:
    """End all machines as a host does that is shut down with them."""
    assert await stage.host.ask(StopAll(60.0), timeout=65.0)
