"""What leads, as `zeitwork.tree` puts it together."""

from __future__ import annotations

from importlib import import_module, util
from typing import Any
from uuid import UUID

from actors.scheduler.actor import Scheduler
from runtime import Spec
from runtime.office import Office
from tests.simulation.store import Store

#: The leader's judge of hosts, once there is one.
_WATCH: Any = import_module("actors.registrar.watch_actor") if util.find_spec("actors.registrar.watch_actor") else None


def leader(store: Store, node_id: UUID, office: Office) -> list[Spec]:
    """Return the actors of one term."""
    specs = [Spec("scheduler", lambda: Scheduler(store.scheduling, office))]
    if _WATCH is not None:
        specs.insert(0, Spec("registrar", lambda: _WATCH.Watch(store.presence, office, node_id)))
    return specs
