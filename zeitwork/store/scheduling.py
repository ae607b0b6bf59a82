"""The scheduler's look and its plan. Writes no table of its own: it uses the functions of those who do."""

from __future__ import annotations

from actors.scheduler.store import Plan, Postponed, Snapshot
from zeitwork.store.units import Units


class Scheduling:
    """`actors.scheduler.store.SchedulingStore` on Postgres."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def snapshot(self) -> Snapshot:
        """Return pending instances and the nodes that could take them."""
        raise NotImplementedError

    async def apply_plan(self, plan: Plan) -> tuple[Postponed, ...]:
        """Commit each assignment with its addresses, and each reason; return those that were refused."""
        raise NotImplementedError
