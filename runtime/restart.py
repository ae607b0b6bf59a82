"""When a failed child is started again, and which siblings with it. Pure: time and chance come in as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from runtime.message import ExitKind

#: ``permanent``: started again however it ended. ``transient``: only when it failed. ``temporary``: never.
Restart = Literal["permanent", "transient", "temporary"]
#: Who is started again when one child ends: that child; it and those started after it; all.
Strategy = Literal["one_for_one", "rest_for_one", "one_for_all"]


@dataclass(frozen=True, slots=True)
class Intensity:
    """More than ``limit`` restarts within ``within`` seconds are too many, and the supervisor itself fails.

    Under ``one_for_one`` each child is counted alone, since a hundred siblings that fail once each (their database
    went away) are not one child that can't live. Under the others all children are counted together.
    """

    limit: int = 10
    within: float = 60.0

    def __post_init__(self) -> None:
        if self.limit < 0 or self.within <= 0:
            raise ValueError("limit must not be negative, within must be positive")


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds to wait before a restart: none for the first ``free``, then ``first`` growing by ``factor``.

    ``jitter`` is the share of a wait that is drawn by chance: 0.5 waits between half and all of it.
    """

    free: int = 1
    first: float = 0.05
    factor: float = 2.0
    longest: float = 15.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if self.free < 0 or self.first < 0 or self.factor < 1 or self.longest < 0 or not 0 <= self.jitter <= 1:
            raise ValueError("a back-off grows from first to longest, with a jitter between 0 and 1")

    def delay(self, earlier: int, draw: float) -> float:
        """Return the wait after ``earlier`` recent restarts; ``draw`` is uniform in [0, 1)."""
        if earlier < self.free:
            return 0.0
        # Exponents beyond this overflow a float long after every sensible ceiling.
        whole = min(self.longest, self.first * self.factor ** min(earlier - self.free, 64))
        return whole * (1 - self.jitter * draw)


@dataclass(frozen=True, slots=True)
class Remove:
    """The child is not started again."""


@dataclass(frozen=True, slots=True)
class StartAgain:
    """Start it again after ``delay`` seconds."""

    delay: float


@dataclass(frozen=True, slots=True)
class Escalate:
    """Intensity is exhausted: the supervisor fails."""


Decision: TypeAlias = Remove | StartAgain | Escalate
#: Times of the restarts that still count, oldest first.
History: TypeAlias = tuple[float, ...]


def decide(
    history: History,
    *,
    now: float,
    restart: Restart,
    exit_kind: ExitKind,
    intensity: Intensity,
    backoff: Backoff,
    draw: float,
) -> tuple[History, Decision]:
    """Return the restarts that count from now on and what to do with a child that ended by itself."""
    if restart == "temporary" or (restart == "transient" and exit_kind != "failed"):
        return history, Remove()
    recent = tuple(at for at in history if now - at < intensity.within)
    if len(recent) >= intensity.limit:
        return recent, Escalate()
    return (*recent, now), StartAgain(backoff.delay(len(recent), draw))


def affected(strategy: Strategy, children: Sequence[str], ended: str) -> tuple[str, ...]:
    """Return which of ``children`` (in start order) are started again when ``ended`` is, in start order."""
    if strategy == "one_for_one":
        return (ended,)
    if strategy == "one_for_all":
        return tuple(children)
    return tuple(children[children.index(ended) :])
