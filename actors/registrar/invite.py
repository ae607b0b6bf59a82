"""Which expected hosts are invited when, and when that is given up. Pure.

What has to outlive a leader is in the store: who is expected, until when, how often it was tried and whether the host
has accepted. A leader remembers only when it tries next, and begins at once with all when it is new.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from actors.model.states import NodeState

#: Seconds between two looks at who is expected.
INTERVAL = 2.0
#: Seconds before the second try, and at most between two.
FIRST_WAIT, LONGEST_WAIT = 2.0, 30.0
#: Invitations under way at once.
MOST = 8
#: What a host is once nobody needs to wait for it any more: it is well, or others judge it.
_OVER = frozenset({NodeState.READY, NodeState.DRAINING, NodeState.DOWN})


@dataclass(frozen=True, slots=True)
class Invited:
    """A host that is expected, as the store knows it.

    ``asked`` tells one request to invite it from the next. ``left`` are the seconds until it is given up, ``accepted``
    says that the host has joined as it was told to, ``generation`` counts its starts (0: it has never come). ``reason``
    is why the last of ``tries`` failed. Its code is no part of what is logged.
    """

    node_id: UUID
    asked: float
    hostname: str
    address: str
    code: str | None
    state: NodeState
    generation: int
    left: float
    timeout: float
    tries: int
    accepted: bool
    reason: str

    def __repr__(self) -> str:
        return f"<Invited {self.hostname} at {self.address}>"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one try went. ``final``: another one would not go otherwise."""

    accepted: bool
    reason: str
    final: bool = False


@dataclass(frozen=True, slots=True)
class Invite:
    """Try it now."""

    invited: Invited


@dataclass(frozen=True, slots=True)
class GiveUp:
    """It has come to nothing."""

    invited: Invited
    reason: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing is left to do for it."""

    invited: Invited


Effect = Invite | GiveUp | Finish
Key = tuple[UUID, float]


@dataclass(frozen=True, slots=True)
class State:
    """``due`` is when to try next, by the leader's monotonic clock; ``busy`` is being tried."""

    due: Mapping[Key, float] = field(default_factory=dict)
    busy: frozenset[Key] = frozenset()


def key_of(invited: Invited) -> Key:
    """Return what tells one request from all others."""
    return invited.node_id, invited.asked


def wait_after(tries: int, roll: Callable[[], float]) -> float:
    """Return the seconds to wait after so many tries; ``roll`` gives numbers from 0 to 1."""
    ceiling: float = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(max(0, tries - 1), 10))
    return ceiling * (0.5 + roll() / 2)


def look(
    state: State, found: Sequence[Invited], now: float, roll: Callable[[], float]
) -> tuple[State, tuple[Effect, ...]]:
    """Take in who is expected at ``now``; return what to remember, and what to do.

    What could not be done is found again at the next look: each effect is repeated for as long as it stands.
    """
    due: dict[Key, float] = {}
    busy = {key_of(one) for one in found} & state.busy
    effects: list[Effect] = []
    for one in found:
        key = key_of(one)
        if one.state is NodeState.TERMINATED or (one.generation > 0 and one.state in _OVER):
            effects.append(Finish(one))
            continue
        if key in busy:
            continue
        if one.left <= 0:
            effects.append(GiveUp(one, why(one)))
            continue
        if one.accepted or one.generation > 0:
            continue  # it starts: its own word is waited for
        # Not all at once when a leader is new.
        due[key] = state.due[key] if key in state.due else now + (roll() * INTERVAL if one.tries else 0.0)
        if due[key] <= now and len(busy) < MOST:
            busy.add(key)
            effects.append(Invite(one))
    return State(due, frozenset(busy)), tuple(effects)


def ended(state: State, invited: Invited, now: float, roll: Callable[[], float]) -> State:
    """Return what to remember after a try has ended, whichever way."""
    key = key_of(invited)
    return State({**state.due, key: now + wait_after(invited.tries + 1, roll)}, state.busy - {key})


def why(one: Invited) -> str:
    """Return the reason for which a host was given up, for people."""
    within = f"within {one.timeout:.0f} s"
    if one.generation > 0:
        return f"it came and was not ready {within}: see its log"
    if one.accepted:
        return f"it accepted its invitation and did not come {within}: see its log"
    if not one.tries:
        return f"it was not invited {within}: nobody leads, or too many were invited"
    return f"not joined {within}, {one.tries} tries; the last: {one.reason}"
