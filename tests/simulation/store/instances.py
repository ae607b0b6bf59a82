"""`zeitwork.store.instances` in memory, restores aside."""

from __future__ import annotations

from uuid import UUID

from actors.model.errors import Conflict, InvalidInput, NotFound
from actors.model.states import InstanceDesired, InstanceState, Volumes
from tests.simulation.store import tables
from tests.simulation.store.current import placements_of
from tests.simulation.store.database import Transaction
from tests.simulation.store.instance_rows import (
    end,
    insert_instance,
    instance_row,
    lock_alive,
    next_generation,
    record_created,
    refuse_unless_running,
    set_paused,
    try_now,
    waits,
)
from tests.simulation.store.nodes import resource_rows
from tests.simulation.store.placements import placement_row
from tests.simulation.store.relocation import replace as replace_placement
from tests.simulation.store.units import Units
from zeitwork.store.instance_checks import check_room
from zeitwork.store.instance_rows import ENDED
from zeitwork.store.rows import InstanceRow, NewInstance, PlacementRow


class Instances:
    """Desired and observed state of instances."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def create(self, new: NewInstance, *, who: str = "api") -> InstanceRow:
        """Write that an instance shall run. Raises `InvalidInput` and `Conflict`; twice with one ``id`` is once."""

        def unit(tx: Transaction) -> InstanceRow:
            instance_id = new.id or tx.database.new_id()
            if tx.database.instances.get(instance_id) is not None:
                return instance_row(tx, instance_id)
            image = tx.database.images.get(new.image_id)
            if image is None or image.deleted_at is not None:
                raise InvalidInput(
                    f"there is no image {new.image_id}", field="image_id", fix="`zeitwork images` lists them"
                )
            check_room(new, resource_rows(tx))
            if not insert_instance(tx, instance_id, new):
                raise Conflict(
                    f"an instance named {new.name} exists already",
                    field="name",
                    fix=f"choose another name, or remove it first: zeitwork rm {new.name}",
                )
            record_created(tx, who, instance_id, new)
            return instance_row(tx, instance_id)

        return await self._units.run(unit, name="instances.create")

    async def get(self, instance_id: UUID) -> InstanceRow:
        """Return an instance, a terminated one too. Raises `NotFound`."""
        return await self._units.read(lambda tx: instance_row(tx, instance_id), name="instances.get")

    async def find(self, name: str) -> InstanceRow:
        """Return the instance of that name that is not terminated. Raises `NotFound`."""

        def unit(tx: Transaction) -> InstanceRow:
            row = _named(tx, name)
            if row is None:
                raise NotFound(f"there is no instance named {name}", fix="`zeitwork ps` lists them")
            return instance_row(tx, row.id)

        return await self._units.read(unit, name="instances.find")

    async def set_desired(
        self,
        instance_id: UUID,
        desired: InstanceDesired,
        *,
        force: bool = False,
        stop_timeout: float | None = None,
        volumes: Volumes = Volumes.KEEP,
        who: str = "api",
    ) -> InstanceRow:
        """Ask an instance to run, stop or terminate. Raises `NotFound` and `Conflict`."""

        def unit(tx: Transaction) -> InstanceRow:
            row = lock_alive(tx, instance_id, desired)
            if desired is not InstanceDesired.RUNNING:
                end(tx, row, desired, force, stop_timeout, who, volumes=volumes)
            elif row.desired is desired and waits(tx, row):
                try_now(tx, row, who)
                set_paused(tx, instance_id, False, who)
            elif row.desired is not desired or row.state in ENDED:
                next_generation(tx, row, force=False, stop_wait=None, what="instance.started", who=who)
            else:
                set_paused(tx, instance_id, False, who)
            return instance_row(tx, instance_id)

        return await self._units.run(unit, name="instances.set_desired")

    async def restart(
        self, instance_id: UUID, *, force: bool = False, stop_timeout: float | None = None, who: str = "api"
    ) -> InstanceRow:
        """Start the next generation whatever the state; the present one is stopped first."""

        def unit(tx: Transaction) -> InstanceRow:
            row = lock_alive(tx, instance_id, InstanceDesired.RUNNING)
            next_generation(tx, row, force=force, stop_wait=stop_timeout, what="instance.restarted", who=who)
            return instance_row(tx, instance_id)

        return await self._units.run(unit, name="instances.restart")

    async def pause(self, instance_id: UUID, *, who: str = "api") -> InstanceRow:
        """Ask that an instance's machine stand still. Raises `NotFound`, and `Conflict` unless it runs."""

        def unit(tx: Transaction) -> InstanceRow:
            row = lock_alive(tx, instance_id, InstanceDesired.RUNNING)
            if not row.paused:
                refuse_unless_running(row, "only what runs can be paused")
                set_paused(tx, instance_id, True, who)
            return instance_row(tx, instance_id)

        return await self._units.run(unit, name="instances.pause")

    async def resume(self, instance_id: UUID, *, who: str = "api") -> InstanceRow:
        """Ask that a paused instance go on. Raises `NotFound`, and `Conflict` when it neither runs nor is paused."""

        def unit(tx: Transaction) -> InstanceRow:
            row = lock_alive(tx, instance_id, InstanceDesired.RUNNING)
            if not row.paused and row.state is not InstanceState.PAUSED:
                refuse_unless_running(row, "only what is paused can be resumed")
            set_paused(tx, instance_id, False, who)
            return instance_row(tx, instance_id)

        return await self._units.run(unit, name="instances.resume")

    async def delete(
        self, instance_id: UUID, *, force: bool = False, stop_timeout: float | None = None, who: str = "api"
    ) -> InstanceRow:
        """Ask an instance to terminate."""
        return await self.set_desired(
            instance_id, InstanceDesired.TERMINATED, force=force, stop_timeout=stop_timeout, who=who
        )

    async def replace(self, instance_id: UUID, *, force: bool = False, who: str = "api") -> InstanceRow:
        """Ask that an instance be placed anew now. Raises `NotFound`, and `Conflict` as `relocation.replace` does."""

        def unit(tx: Transaction) -> InstanceRow:
            replace_placement(tx, instance_id, force=force, who=who)
            return instance_row(tx, instance_id)

        return await self._units.run(unit, name="instances.replace")

    async def placements(self, instance_id: UUID) -> tuple[PlacementRow, ...]:
        """Return every try to run it, oldest first. Raises `NotFound`."""

        def unit(tx: Transaction) -> tuple[PlacementRow, ...]:
            instance_row(tx, instance_id)
            return tuple(placement_row(row) for row in placements_of(tx, instance_id))

        return await self._units.read(unit, name="instances.placements")

    async def counts(self) -> dict[InstanceState, int]:
        """Return how many instances are in each state, zeros included."""

        def unit(tx: Transaction) -> dict[InstanceState, int]:
            found = dict.fromkeys(InstanceState, 0)
            for row in tx.database.instances:
                found[row.state] += 1
            return found

        return await self._units.read(unit, name="instances.counts")


def _named(tx: Transaction, name: str) -> tables.Instance | None:
    rows = (row for row in tx.database.instances if row.name == name and row.state is not InstanceState.TERMINATED)
    return next(rows, None)
