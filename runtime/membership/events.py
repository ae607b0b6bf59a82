"""What goes into the state machine and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias
from uuid import UUID

from runtime.membership.claim import Claim, State
from runtime.membership.messages import Said

Kind = Literal["joined", "suspect", "alive", "dead", "left", "changed"]


@dataclass(frozen=True, slots=True)
class Peer:
    """Where something is sent to or has come from. ``host`` is None only for an address that somebody gave us.

    ``address`` may be empty for one that has connected to us: it is reached by its host id for as long as that lasts.
    """

    host: UUID | None
    address: str


@dataclass(frozen=True, slots=True)
class Member:
    """One life of a host as this host sees it. ``since``: of this state, monotonic seconds. ``meta`` is opaque.

    ``refused``: somebody who tried was told that nobody listens, so its machine runs and its process does not.
    """

    host: UUID
    generation: int
    incarnation: int
    state: State
    address: str
    version: int
    meta: bytes
    refused: bool
    since: float

    @classmethod
    def of(cls, claim: Claim, since: float) -> Member:
        """Return what a claim with a profile says."""
        profile = claim.profile
        assert profile is not None
        return cls(
            claim.host,
            claim.generation,
            claim.incarnation,
            claim.state,
            profile.address,
            profile.version,
            profile.meta,
            claim.refused,
            since,
        )


# ---- events


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Join:
    """Begin; some hosts of the cluster are to be found at these addresses. None: this is the first one."""

    seeds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Received:
    """``peer`` says something. Its host is known for sure: the link has checked it."""

    peer: Peer
    said: Said


@dataclass(frozen=True, slots=True)
class Unreachable:
    """A connection could not be made, or broke. ``refused``: its machine answered that nobody listens."""

    peer: Peer
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Publish:
    """This host's metadata is this from now on."""

    meta: bytes


@dataclass(frozen=True, slots=True)
class Leave:
    """This host leaves on purpose. Nothing comes of any later event."""


Event: TypeAlias = Tick | Join | Received | Unreachable | Publish | Leave


# ---- effects


@dataclass(frozen=True, slots=True)
class Send:
    """Send this, if that is possible now. Nothing is sent again because it was lost."""

    peer: Peer
    said: Said


@dataclass(frozen=True, slots=True)
class Notice:
    """Something happened to a member.

    ``joined``: a life not known before; ``suspect``: it may be dead; ``alive``: it is not, after all; ``dead``: it is,
    or a later life of its host has begun; ``left``: it has gone on purpose; ``changed``: nothing but its metadata, its
    address, or what is known of why it does not answer. Each of the others may come with such changes as well.
    """

    kind: Kind
    member: Member


@dataclass(frozen=True, slots=True)
class Superseded:
    """A later life of this very host is a member. Nothing comes of any later event."""

    generation: int


Effect: TypeAlias = Send | Notice | Superseded


def live(claim: Claim) -> bool:
    """Tell whether it says of a host that it may be used."""
    return claim.state <= State.SUSPECT and claim.profile is not None


def kinds(old: Claim | None, new: Claim) -> tuple[Kind, ...]:
    """Return what happened to the life of ``new`` when that took the place of ``old``, in order.

    ``old`` is None when no notice of that life was given before, whatever was known of it.
    """
    if old is None:
        if not live(new):
            return ()
        return ("joined", "suspect") if new.state is State.SUSPECT else ("joined",)
    if not live(new):
        if old.state is not new.state:
            return ("left",) if new.state is State.LEFT else ("dead",)
    elif not live(old):
        return ("alive", "suspect") if new.state is State.SUSPECT else ("alive",)
    if old.state is not new.state:
        return ("suspect",) if new.state is State.SUSPECT else ("alive",)
    return ("changed",) if old.profile != new.profile or (new.refused and not old.refused) else ()
