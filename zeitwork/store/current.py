"""Which of an instance's placements speaks for it, and which keep its next generation from being placed.

Each rule is here twice, pure and as SQL; a test compares them. In the SQL ``i`` is the instance and ``c`` a placement
of it. ``superseded`` means: of an older generation than the instance's. Of placements that are not removed

- one that is lost and superseded is left out, unless it is exclusive: somebody has decided to do without it;
- of the others the kept one speaks for the instance, else the one of the newest generation;
- an exclusive one keeps the next generation from being placed, and so does any other that is neither kept nor lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

#: Is not left out.
COUNTS = "c.state <> 'removed' and (c.lost_at is null or c.exclusive or c.generation >= i.generation)"
#: The first of those that count, in this order, is the current one.
FIRST = "c.kept desc, c.generation desc"
#: Keeps the next generation from being placed.
BLOCKS = "c.state <> 'removed' and (c.exclusive or not c.kept and c.lost_at is null)"


class Try(Protocol):
    """What the rules ask of a placement that is not removed."""

    @property
    def generation(self) -> int:
        """The instance's generation that it was placed for."""

    @property
    def kept(self) -> bool:
        """Whether it serves on, although superseded, until its successor runs."""

    @property
    def lost(self) -> bool:
        """Whether its host was found dead since, and it has not been heard of."""

    @property
    def exclusive(self) -> bool:
        """Whether no other of its instance may be beside it."""


T = TypeVar("T", bound=Try)


def counts(one: Try, generation: int) -> bool:
    """Say whether a placement is not left out, given the ``generation`` of its instance."""
    return not one.lost or one.exclusive or one.generation >= generation


def current(tries: Iterable[T], generation: int) -> T | None:
    """Return the placement that speaks for an instance with that generation, of its placements not yet removed."""
    return max(
        (one for one in tries if counts(one, generation)), key=lambda one: (one.kept, one.generation), default=None
    )


def blocks(one: Try) -> bool:
    """Say whether a placement keeps its instance's next generation from being placed."""
    return one.exclusive or not (one.kept or one.lost)
