"""What leads, as `zeitwork.tree` puts it together."""

from __future__ import annotations

from actors.scheduler.actor import Scheduler
from runtime import Spec
from runtime.office import Office
from tests.simulation.store import Store


def leader(store: Store, office: Office) -> list[Spec]:
    """Return the actors of one term."""
    return [Spec("scheduler", lambda: Scheduler(store.scheduling, office))]
