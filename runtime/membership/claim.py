"""What is said of a host, and which of two sayings holds: a join-semilattice, so their order does not matter."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from uuid import UUID

#: Bounds of what a claim may carry: bytes of metadata, bytes of an address (UTF-8), accusers.
META_BYTES = 512
ADDRESS_BYTES = 255
ACCUSERS = 4
#: Bound of generations, incarnations and versions.
LARGEST = 2**53
#: Bound of the incarnations and versions that are believed of others. Whoever refutes one of these still has numbers to
#: speak under, and what it says of itself by speaking counts: nobody is made mute, or dead for good, by a large one.
CLAIMED = LARGEST // 2


class State(IntEnum):
    """Later ones win over earlier ones of the same incarnation."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


@dataclass(frozen=True, slots=True, order=True)
class Profile:
    """What a host says of itself: where it is reached, and bytes that mean nothing here. Only it raises ``version``."""

    version: int
    address: str
    meta: bytes = b""

    def __post_init__(self) -> None:
        """Raise `ValueError` when it is too large to be told."""
        if len(self.address.encode()) > ADDRESS_BYTES:
            raise ValueError(f"an address has at most {ADDRESS_BYTES} bytes")
        if len(self.meta) > META_BYTES:
            raise ValueError(f"metadata has at most {META_BYTES} bytes, not {len(self.meta)}")


@dataclass(frozen=True, slots=True)
class Claim:
    """One saying about one host.

    ``generation`` grows with each start of the host's process: a higher one supersedes all that was said of lower
    ones. ``incarnation`` is raised by the host itself, to refute. ``accusers`` suspect it, each by itself. ``refused``:
    its machine answered that nobody listens, so not the machine is down but the process. ``age``: for how many seconds
    it has been dead or gone.
    """

    host: UUID
    generation: int
    incarnation: int
    state: State
    profile: Profile | None = None
    accusers: tuple[UUID, ...] = ()
    refused: bool = False
    age: int = field(default=0, compare=False)

    @property
    def size(self) -> int:
        """Upper bound of its bytes on the wire."""
        size = 64 + 18 * len(self.accusers)
        if self.profile is not None:
            size += 24 + len(self.profile.address.encode()) + len(self.profile.meta)
        return size


def join(old: Claim, new: Claim) -> Claim:
    """Return what holds when both were said of a host; ``old`` itself when ``new`` adds nothing to it."""
    if new is old:
        return old
    if new.generation != old.generation:
        return new if new.generation > old.generation else old
    profile = old.profile
    if new.profile is not None and (profile is None or new.profile > profile):
        profile = new.profile
    if new.incarnation != old.incarnation:
        top = new if new.incarnation > old.incarnation else old
        return top if profile is top.profile else _with_profile(top, profile)
    state = max(old.state, new.state)
    refused = old.refused or new.refused
    accusers = old.accusers
    if new.accusers and new.accusers != accusers:
        accusers = tuple(sorted({*accusers, *new.accusers}))[:ACCUSERS]
    if (state, refused, accusers) == (old.state, old.refused, old.accusers) and profile is old.profile:
        return old
    age = max(old.age, new.age)
    return Claim(old.host, old.generation, old.incarnation, state, profile, accusers, refused, age)


def _with_profile(claim: Claim, profile: Profile | None) -> Claim:
    return Claim(
        claim.host,
        claim.generation,
        claim.incarnation,
        claim.state,
        profile,
        claim.accusers,
        claim.refused,
        claim.age,
    )
