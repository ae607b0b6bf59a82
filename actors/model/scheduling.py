"""What an instance asks of the host that it is placed on, and what hosts say of themselves for that."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

#: Priorities go from 0 to this; what nobody chose is in the middle.
MAX_PRIORITY, DEFAULT_PRIORITY = 100, 50
#: The label of a node that names its failure domain: what shares power or a switch goes down together.
DOMAIN_LABEL = "zone"
#: A group wants at most so many instances.
MAX_REPLICAS = 1000
#: The one machine architecture there is for now.
ARCHITECTURE = "x86_64"


class Strategy(StrEnum):
    """Which of the hosts that fit is taken."""

    BINPACK = "binpack"  # the fullest, so that large requests keep finding room
    SPREAD = "spread"  # the one with the fewest of the same group, then of its failure domain


@dataclass(frozen=True, slots=True, order=True)
class Taint:
    """Keeps every instance away from a host that does not tolerate it."""

    key: str
    value: str = ""

    def __str__(self) -> str:
        return f"{self.key}={self.value}" if self.value else self.key


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a host must be for an instance; empty and None ask for nothing.

    ``labels`` are pairs that the host must all have, sorted. ``tolerations`` are taints that do not keep it away: a
    toleration without a value is of every value. ``strategy`` None is the default: spread in a group, else bin-pack.
    """

    region: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    hypervisor: str | None = None
    architecture: str | None = None
    tolerations: tuple[Taint, ...] = ()
    strategy: Strategy | None = None

    def tolerates(self, taint: Taint) -> bool:
        """Say whether ``taint`` does not keep it away."""
        return taint in self.tolerations or Taint(taint.key) in self.tolerations


ANYWHERE = Requirements()
