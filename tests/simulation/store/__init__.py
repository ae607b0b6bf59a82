"""A double of `zeitwork.store`: the same aggregates, methods, rules and refusals over tables in memory."""

from tests.simulation.store.bugs import Bug
from tests.simulation.store.database import Database
from tests.simulation.store.double import Store
from tests.simulation.store.units import LocalUnits, Units

__all__ = ["Bug", "Database", "LocalUnits", "Store", "Units"]
