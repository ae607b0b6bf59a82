"""Instances: what people want to run. Writes the table ``instances``."""

from __future__ import annotations

from uuid import UUID

from actors.model.states import InstanceDesired, InstanceState
from zeitwork.store.rows import EventRow, InstanceRow, NewInstance, Page, PlacementRow
from zeitwork.store.units import Units


class Instances:
    """Desired and observed state of instances."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def create(self, new: NewInstance, *, who: str = "api") -> InstanceRow:
        """Write that an instance shall run.

        Raises `InvalidInput` that names the field when the image or node does not exist or no node could ever hold
        it (with the numbers), `Conflict` when the name is taken. Creating the same ``id`` again returns what there is.
        """
        raise NotImplementedError

    async def get(self, instance_id: UUID) -> InstanceRow:
        """Return an instance, a terminated one too. Raises `NotFound`."""
        raise NotImplementedError

    async def find(self, name: str) -> InstanceRow:
        """Return the instance of that name that is not terminated. Raises `NotFound`."""
        raise NotImplementedError

    async def list(
        self,
        *,
        state: InstanceState | None = None,
        node_id: UUID | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[InstanceRow]:
        """Return instances, oldest first; terminated ones only when ``state`` asks for them."""
        raise NotImplementedError

    async def set_desired(
        self,
        instance_id: UUID,
        desired: InstanceDesired,
        *,
        force: bool = False,
        stop_timeout: float | None = None,
        who: str = "api",
    ) -> InstanceRow:
        """Ask an instance to run, stop or terminate.

        Asking what is already so changes nothing. ``running`` on one that has ended starts its next generation.
        ``force`` skips the graceful part of a stop, ``stop_timeout`` (seconds) replaces its wait. Raises `NotFound`,
        and `Conflict` for anything but terminated on a terminated one.
        """
        raise NotImplementedError

    async def restart(
        self, instance_id: UUID, *, force: bool = False, stop_timeout: float | None = None, who: str = "api"
    ) -> InstanceRow:
        """Start the next generation whatever the state; the present one is stopped first."""
        raise NotImplementedError

    async def delete(
        self, instance_id: UUID, *, force: bool = False, stop_timeout: float | None = None, who: str = "api"
    ) -> InstanceRow:
        """Ask an instance to terminate; its state is ``terminated`` once the host confirms that nothing is left."""
        raise NotImplementedError

    async def placements(self, instance_id: UUID) -> tuple[PlacementRow, ...]:
        """Return every try to run it, oldest first. Raises `NotFound`."""
        raise NotImplementedError

    async def events(self, instance_id: UUID, *, after: int = 0, limit: int = 100) -> tuple[EventRow, ...]:
        """Return what happened to it, oldest first. Raises `NotFound`."""
        raise NotImplementedError

    async def counts(self) -> dict[InstanceState, int]:
        """Return how many instances are in each state, zeros included."""
        raise NotImplementedError
