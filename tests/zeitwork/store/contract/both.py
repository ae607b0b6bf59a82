"""Both stores under the same operations."""

from __future__ import annotations

from typing import Any

from actors.model.health import HealthState
from actors.model.records import Observation
from actors.model.states import NodeState, Outcome, PlacementState
from tests.zeitwork.store.contract.frame import NOBODY, UNKNOWN, Refs
from tests.zeitwork.store.contract.guests import Guests
from tests.zeitwork.store.contract.people import People


class Both(People, Guests):
    """All of it, what hosts see, and time."""

    def find(self, number: int) -> tuple[int, int] | None:
        """Return which placement a number means: live ones come before those that are removed."""
        keys = self._in_order()
        return keys[number % len(keys)] if keys and number != UNKNOWN else None

    def _in_order(self) -> list[tuple[int, int]]:
        live = {row.id for row in self.double.database.placements if row.live}
        placements = self.ids[1].placements
        return sorted(placements, key=lambda key: (placements[key] not in live, key))

    def start(self, most: int) -> None:
        """Let up to so many run that nobody has begun to start."""
        placements, states = self.ids[1].placements, {row.id: row.state for row in self.double.database.placements}
        for key in [key for key in self._in_order() if states[placements[key]] is PlacementState.ASSIGNED][:most]:
            self.observe(self._in_order().index(key), PlacementState.RUNNING)

    def observe(
        self,
        placement: int,
        state: PlacementState,
        outcome: Outcome | None = None,
        status: int | None = None,
        failures: int | None = None,
        reason: str = "",
        expected: tuple[PlacementState, ...] = tuple(PlacementState),
        wait: float | None = None,
    ) -> None:
        key = self.find(placement)
        if state is not PlacementState.WAITING:
            wait = None

        def call(store: Any, refs: Refs) -> Any:
            now = self.real.now if store is self.real.store else self.double.now
            again = None if wait is None else now + wait
            seen = Observation(state, reason, outcome, status, "qemu", 4711, "boot-1", failures, again)
            return store.placements.observe(refs.placement(key), list(expected), seen)

        self.call(
            f"observe({placement}, {state}, {outcome}, {status}, {failures}, {reason!r}, {expected}, {wait})", call
        )

    def health(self, placement: int, state: HealthState, reason: str = "") -> None:
        key = self.find(placement)
        self.call(
            f"health({placement}, {state}, {reason!r})",
            lambda store, refs: store.placements.record_health(refs.placement(key), state, reason),
        )

    def tombstones(self, node: int) -> None:
        keys = list(self.ids[1].placements)

        def call(store: Any, refs: Refs) -> Any:
            return store.placements.tombstones(refs.pick("nodes", node), [*map(refs.placement, keys), NOBODY])

        self.call(f"tombstones({node})", call)

    def expire(self, node: int) -> None:
        self.call(f"expire({node})", lambda store, refs: store.leases.expire_rested(refs.pick("nodes", node)))

    def wait(self, seconds: int) -> None:
        """Let time pass."""

        async def nothing(store: Any, refs: Refs) -> None:
            return None

        self.real.pass_time(seconds)
        self.double.clock.ahead += seconds
        self.call(f"wait({seconds})", nothing)
        self._check(f"wait({seconds})", self._compare())

    def begin(self) -> None:
        """Have two hosts that are ready, and an image."""
        for number in range(2):
            self.register(number, 0, "ab"[number])
            self.capacity(number, 0)
            self.state(number, NodeState.READY)
        self.image(0)
        self.image_ready(0)
