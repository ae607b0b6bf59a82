"""What the host actor is given to work with; the composition root knows what stands behind it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol
from uuid import UUID

from actors.model.records import Placement
from actors.vm.messages import Leftover, Stop
from runtime import Ref, Spec


class Leftovers(Protocol):
    """Things of placements in this host's directories."""

    async def scan(self, known: Collection[UUID]) -> tuple[Leftover, ...]:
        """Return every placement of which something is here and that is not among the ``known``."""

    async def strangers(self, known: Collection[UUID]) -> tuple[str, ...]:
        """Return names of our cgroups with processes that belong to none of the ``known`` placements."""

    async def destroy(self, leftover: Leftover) -> None:
        """End and remove what is left of a placement."""

    async def prune(self) -> int:
        """Remove the oldest logs of placements that are gone; return how many."""


class Snapshots(Protocol):
    """Files of snapshots on this host."""

    async def scan(self) -> tuple[UUID, ...]:
        """Return the ids of all snapshots of this cluster that something is here of."""

    async def destroy(self, snapshot: UUID) -> None:
        """Remove one. Idempotent."""


#: Make the specification of a placement's TAP actor.
MakeTap = Callable[[Placement], Spec]
#: Make the specification of a placement's VM actor: placement, its TAP actor, the host, and a stop to begin with.
MakeVm = Callable[[Placement, Ref, Ref, Stop | None], Spec]
