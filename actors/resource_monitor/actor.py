"""Measures this host again and again, and tells the database when what it can give has changed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from uuid import UUID

import trio

from actors.model.errors import Problem, Unavailable
from actors.model.resources import Capacity
from actors.resource_monitor.capacity import CapacityPolicy
from actors.resource_monitor.measure import measure
from actors.resource_monitor.messages import (
    Measured,
    MeasuringFailed,
    Recorded,
    RecordingFailed,
    Refresh,
    ResourceSnapshot,
    Snapshot,
)
from actors.resource_monitor.store import CapacityStore
from runtime import Actor, Message, Reply

#: Seconds between readings. A reading takes about a millisecond.
EVERY = 5.0
#: Seconds that a reading, and the database's answer, may take.
DEADLINE = 10.0
#: Requests that may wait for one reading.
MOST_WAITING = 256


def nobody_knows() -> str | None:
    """Return None: the hypervisor is not chosen yet."""
    return None


class ResourceMonitor(Actor):
    """One reading at a time; who asks meanwhile gets the next one's answer, which began after they asked.

    ``hypervisor`` says what runs guests here (``firecracker``, ``qemu``), None while that is not known.
    """

    def __init__(
        self,
        store: CapacityStore,
        node_id: UUID,
        policy: CapacityPolicy | None = None,
        *,
        hypervisor: Callable[[], str | None] = nobody_knows,
        root: Path = Path("/"),
    ) -> None:
        self._store = store
        self._node_id = node_id
        self._policy = policy or CapacityPolicy()
        self._hypervisor = hypervisor
        self._root = root
        self._measuring = False
        self._waiting: list[Reply] = []  # for the next reading
        self._served: list[Reply] = []  # by the present one
        self._recorded: Capacity | None = None
        self._recording = False
        self._failing = False

    async def init(self) -> None:
        """Measure now, then regularly."""
        self.ctx.every(EVERY, Refresh())
        self.ctx.ref.tell(Refresh())

    async def receive(self, message: Message) -> None:
        """Start a reading, or deal with the end of one."""
        match message:
            case Refresh():
                self._measure()
            case Snapshot() if len(self._waiting) >= MOST_WAITING:
                self.ctx.fail(Unavailable("too many ask how busy this host is", fix="ask again later"))
            case Snapshot():
                self._waiting.append(self.ctx.reply_slot())
                self._measure()
            case Measured(snapshot=snapshot):
                self._finish(lambda slot: slot.reply(snapshot))
                self._record(snapshot.capacity)
            case MeasuringFailed(error=error):
                self.ctx.log.error("the machine could not be measured", error=str(error))
                known = error if isinstance(error, Problem) else Unavailable(f"this host can't be measured: {error}")
                self._finish(lambda slot: slot.fail(known))
            case Recorded(capacity=capacity):
                self._recording = self._failing = False
                self._recorded = capacity
                self.ctx.log.info("capacity recorded", vcpu=capacity.vcpu, memory_mib=capacity.memory)
            case RecordingFailed(error=error):
                self._recording = False
                if not self._failing:
                    self.ctx.log.warning("capacity not recorded", error=str(error), retry_in=EVERY)
                self._failing = True
            case _:
                self.ctx.log.warning("unknown message", message=type(message).__name__)

    def _measure(self) -> None:
        if self._measuring:
            return
        self._measuring = True
        self._served, self._waiting = self._waiting, []
        self.ctx.effect(self._read, name="measure", deadline=DEADLINE, then=Measured, failed=MeasuringFailed)

    async def _read(self) -> ResourceSnapshot:
        read = partial(measure, self.ctx.env.now(), self._policy, self._hypervisor(), self._root)
        return await trio.to_thread.run_sync(read)

    def _finish(self, answer: Callable[[Reply], None]) -> None:
        self._measuring = False
        served, self._served = self._served, []
        for slot in served:
            answer(slot)
        if self._waiting:
            self._measure()

    def _record(self, capacity: Capacity) -> None:
        if self._recording or capacity == self._recorded:
            return
        self._recording = True
        self.ctx.effect(
            self._store.record_capacity, self._node_id, capacity, name="record", deadline=DEADLINE,
            then=lambda _: Recorded(capacity), failed=RecordingFailed,
        )  # fmt: skip
