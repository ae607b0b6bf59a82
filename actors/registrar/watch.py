"""Which hosts are dead, as the leader tells by the signs of life that it finds in the store. Pure.

Nothing but the leader's own clock measures a silence, and only time in which it did read the store counts. What it
can't tell apart from a dead host is no reason to call one dead: an outage of the store, its own absence, and a store
that takes no writes. The last it knows by its own host, whose signs of life it knows to be given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from actors.model.states import NodeState
from actors.registrar.store import Beat

#: Seconds of silence after which a host is dead, and one whose process is starting (it gives no sign until it is up).
DOWN_AFTER, BOOTING_AFTER = 10.0, 120.0
#: Seconds between two looks.
INTERVAL = 1.0
#: Seconds without a sign of life of the leader's own host after which signs of life can't be written.
OWN_SILENCE = 7.0


@dataclass(frozen=True, slots=True)
class Heard:
    """What was last heard of a host, and for how many seconds nothing new was found since."""

    beat: Beat
    silent: float = 0.0


@dataclass(frozen=True, slots=True)
class State:
    """What the leader remembers: when it last looked (its monotonic clock, None: never), and what it found."""

    looked: float | None = None
    heard: Mapping[UUID, Heard] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A host is dead; ``beat`` is the last sign of life, ``reason`` what people are told."""

    beat: Beat
    reason: str


def step(own: UUID, state: State, beats: Sequence[Beat], now: float) -> tuple[State, tuple[Verdict, ...]]:
    """Take in what was found at ``now``; return what to remember, and which hosts are dead.

    A look adds at most two intervals to a silence, however long ago the one before was. A verdict is repeated for as
    long as it stands: whoever could not carry it out gets it again.
    """
    gone = 0.0 if state.looked is None else min(max(0.0, now - state.looked), 2 * INTERVAL)
    heard = {beat.node_id: _hear(state.heard.get(beat.node_id), beat, gone) for beat in beats}
    mine = heard.get(own)
    if mine is None or mine.silent >= OWN_SILENCE:
        # Nobody is heard of then: all begin anew, but for this host, by which the end of that is known.
        heard = {one: found if one == own else Heard(found.beat) for one, found in heard.items()}
    verdicts = (_judge(found) for one, found in heard.items() if one != own)
    return State(now, heard), tuple(verdict for verdict in verdicts if verdict is not None)


def forget(state: State) -> State:
    """Return what is remembered after the store could not be read: every silence begins anew."""
    return State(None, {one: Heard(found.beat) for one, found in state.heard.items()})


def _hear(known: Heard | None, beat: Beat, gone: float) -> Heard:
    # A change of its state is as good as a beat: one that has just come up is not silent since it began to start.
    return Heard(beat) if known is None or known.beat != beat else Heard(beat, known.silent + gone)


def _judge(heard: Heard) -> Verdict | None:
    allowed = BOOTING_AFTER if heard.beat.state is NodeState.BOOTING else DOWN_AFTER
    return Verdict(heard.beat, f"no sign of life for {allowed:.0f} s") if heard.silent >= allowed else None
