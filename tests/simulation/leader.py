"""What leads, as `zeitwork.tree` puts it together."""

from __future__ import annotations

from uuid import UUID

from actors.registrar.watch_actor import Watch
from actors.scheduler.actor import Scheduler
from runtime import Spec
from runtime.office import Office
from tests.simulation.store import Store


def leader(store: Store, node_id: UUID, office: Office) -> list[Spec]:
    """Return the actors of one term."""
    return [
        Spec("registrar", lambda: Watch(store.presence, office, node_id)),
        Spec("scheduler", lambda: Scheduler(store.scheduling, office)),
    ]
