"""How a unit of work gets to the database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import trio

from tests.simulation.store.database import Database, Transaction

T = TypeVar("T")
Unit = Callable[[Transaction], T]


class Units(Protocol):
    """Runs units of work. Raises what the unit raises, `Unavailable`, and `OutcomeUnknown` (then: done or not)."""

    async def run(self, unit: Unit[T], *, name: str) -> T:
        """Run a unit that writes."""

    async def read(self, unit: Unit[T], *, name: str) -> T:
        """Run a unit that only reads."""


class LocalUnits:
    """Right at the database, without faults."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self, unit: Unit[T], *, name: str) -> T:
        """Run a unit now."""
        await trio.lowlevel.checkpoint()
        return self._database.transact(unit, name)

    async def read(self, unit: Unit[T], *, name: str) -> T:
        """Run a unit now."""
        return await self.run(unit, name=name)
