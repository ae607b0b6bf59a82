"""What leads, as `zeitwork.tree` puts it together."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from actors.commands.dispatcher import dispatcher
from actors.commands.messages import NAME as COMMANDS
from actors.registrar.invite_store import Inviting
from actors.registrar.inviter import NAME as INVITER
from actors.registrar.inviter import Inviter
from actors.registrar.pulse import Pulse
from actors.registrar.sightings import Sighting
from actors.registrar.watch_actor import Watch
from actors.scheduler.actor import Scheduler
from runtime import Ref, Spec, System
from runtime.office import Office
from tests.simulation.reach import ProcessLife
from tests.simulation.store import Store
from zeitwork.members import sightings_of


def leader(
    store: Store,
    node_id: UUID,
    life: ProcessLife,
    system: System,
    pulse: Pulse,
    linked: bool,
    inviting: Inviting | None,
    office: Office,
) -> list[Spec]:
    """Return the actors of one term."""

    def sightings() -> Mapping[UUID, Sighting]:
        return {} if life.linked is None else sightings_of(life.linked.members(), system.env.monotonic())

    def reach(node: UUID) -> Ref | None:
        return None if life.linked is None else life.linked.actor(node, COMMANDS)

    specs = [
        Spec("registrar", lambda: Watch(store.presence, office, node_id, sightings, pulse)),
        Spec("scheduler", lambda: Scheduler(store.scheduling, office)),
    ]
    if inviting is not None:
        specs.append(Spec(INVITER, lambda: Inviter(store.invitations, inviting, office)))
    # Without links it has nothing to do, and nothing to look for.
    return [*specs, dispatcher(store.commands, office, node_id, reach)] if linked else specs
