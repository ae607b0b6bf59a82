"""Which hosts are dead, as the leader tells by the signs of life that it finds in the store, and by gossip. Pure.

Nothing but the leader's own clock measures a silence, and only time in which it did read the store counts. What it
can't tell apart from a dead host is no reason to call one dead: an outage of the store, its own absence, and a store
that takes no writes. The last it knows by its own host, whose signs of life it knows to be given.

What the other hosts say of one is evidence that does not come through the store. Both together are quicker: who is
dead to them and silent in the store as well is dead after a missed sign. Either alone is less: signs of life in the
store are the truth, whatever is said, and one that the others reach but that gives none lives and can't reach the
store, so that there is time before what it runs is replaced. As there is where its machine refuses connections: what
its process left running still runs. A leader whom nobody else answers may be the one that is cut off, and one whose
own signs were written only lately can't tell silence from an outage: to them nothing is said.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from actors.model.states import NodeState
from actors.registrar.sightings import Seen, Sighting
from actors.registrar.store import Beat

#: Seconds of silence after which a host is dead, and one whose process is starting (it gives no sign until it is up).
DOWN_AFTER, BOOTING_AFTER = 10.0, 120.0
#: Seconds without a sign of life, by the store's clock, after which one that is dead to the others is: one was missed.
MISSED_AFTER = 4.0
#: Seconds until what ran on a host is replaced where it may still run, or its host may soon be back.
GRACE = 60.0
#: Seconds for which others may say that a host is dead which gives signs of life before that is worth telling people.
CONTRADICTED_AFTER = 10.0
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
    """What the leader remembers: when it last looked (its monotonic clock, None: never), and what it found.

    ``contradicted`` are hosts that give signs of life while others hold them dead.
    """

    looked: float | None = None
    heard: Mapping[UUID, Heard] = field(default_factory=dict)
    contradicted: frozenset[UUID] = frozenset()


@dataclass(frozen=True, slots=True)
class Verdict:
    """A host is dead; ``beat`` is the last sign of life, ``reason`` what people are told.

    What it ran is replaced after ``grace`` seconds.
    """

    beat: Beat
    reason: str
    grace: float = 0.0


@dataclass(frozen=True, slots=True)
class Gossip:
    """What others say of hosts, and for how many seconds this host's own signs of life have been written without gap.

    An empty one knows nothing.
    """

    sightings: Mapping[UUID, Sighting] = field(default_factory=dict)
    steady: float = 0.0

    def of(self, beat: Beat) -> Sighting | None:
        """Return what is said of the life of a host that gave this sign, None when nothing is."""
        found = self.sightings.get(beat.node_id)
        return found if found is not None and found.generation == beat.generation else None


_SILENT = Gossip()


def step(
    own: UUID, state: State, beats: Sequence[Beat], now: float, gossip: Gossip = _SILENT
) -> tuple[State, tuple[Verdict, ...]]:
    """Take in what was found at ``now``; return what to remember, and which hosts are dead.

    A look adds at most two intervals to a silence, however long ago the one before was. A verdict is repeated for as
    long as it stands: whoever could not carry it out tells by `interrupt`, and gets it again.
    """
    gone = 0.0 if state.looked is None else min(max(0.0, now - state.looked), 2 * INTERVAL)
    heard = {beat.node_id: _hear(state.heard.get(beat.node_id), beat, gone) for beat in beats}
    mine = heard.get(own)
    able = mine is not None and mine.silent < OWN_SILENCE
    if not able:
        # Nobody is heard of then: all begin anew, but for this host, by which the end of that is known.
        heard = {one: found if one == own else Heard(found.beat) for one, found in heard.items()}
    proven = able and _proven(gossip)
    others = [found for one, found in heard.items() if one != own]
    verdicts = (_judge(found, gossip.of(found.beat), proven=proven) for found in others)
    contradicted = frozenset(found.beat.node_id for found in others if _contradicted(found, gossip.of(found.beat)))
    return State(now, heard, contradicted), tuple(verdict for verdict in verdicts if verdict is not None)


def forget(state: State) -> State:
    """Return what is remembered after the store could not be read: every silence begins anew."""
    return State(None, {one: Heard(found.beat) for one, found in state.heard.items()}, state.contradicted)


def interrupt(
    own: UUID, state: State, condemned: Collection[UUID], *, steady: bool, again: float = MISSED_AFTER
) -> State:
    """Return what is remembered after verdicts on ``condemned`` hosts could not be carried out.

    Their silence is still evidence, but they have ``again`` seconds more, which are enough for a sign: what was in the
    way of the verdict may have been in the way of theirs. The others lose nothing as long as this host's own signs were
    written throughout (``steady``). Without that it may have been an outage: then theirs begin anew, and the time that
    the verdicts took counts for nobody.
    """
    if steady:
        again += 2 * INTERVAL  # which the next look may add

    def kept(found: Heard) -> float:
        if found.beat.node_id in condemned:
            return min(found.silent, max(0.0, _allowed(found.beat) - again))
        return found.silent if steady or found.beat.node_id == own else 0.0

    heard = {one: Heard(found.beat, kept(found)) for one, found in state.heard.items()}
    return State(state.looked if steady else None, heard, state.contradicted)


def _allowed(beat: Beat) -> float:
    return BOOTING_AFTER if beat.state is NodeState.BOOTING else DOWN_AFTER


def _hear(known: Heard | None, beat: Beat, gone: float) -> Heard:
    # A change of its state is as good as a beat: one that has just come up is not silent since it began to start.
    return Heard(beat) if known is None or known.beat != beat else Heard(beat, known.silent + gone)


def _proven(gossip: Gossip) -> bool:
    """Tell whether a death that others speak of, and a missed sign by the store's clock, are enough together.

    Somebody else must be alive to this host, and the store must have taken signs for longer than a host needs for one.
    """
    return gossip.steady >= DOWN_AFTER and any(one.state is Seen.ALIVE for one in gossip.sightings.values())


def _judge(heard: Heard, sighting: Sighting | None, *, proven: bool) -> Verdict | None:
    beat = heard.beat
    allowed = _allowed(beat)
    silent = heard.silent >= allowed
    gone = sighting is not None and sighting.state in (Seen.DEAD, Seen.LEFT)
    if not silent and not (gone and proven and max(beat.age, heard.silent) >= MISSED_AFTER):
        return None
    verdict = _verdict(beat, sighting, allowed)
    if beat.state is NodeState.DOWN and (verdict.grace > 0 or not gone or beat.replace_in is None):
        # It is down already, and nothing is known that makes it worse.
        return None
    return verdict


def _verdict(beat: Beat, sighting: Sighting | None, allowed: float) -> Verdict:
    silence = f"no sign of life for {allowed:.0f} s"
    if sighting is None:
        return Verdict(beat, silence)
    match sighting.state:
        case Seen.ALIVE:
            return Verdict(beat, f"{silence}: it answers other hosts, but can't reach the database", GRACE)
        case Seen.SUSPECT:
            return Verdict(beat, f"{silence}, and other hosts are not sure of it", GRACE)
        case Seen.LEFT:
            return Verdict(beat, "no sign of life since it left", GRACE)
        case Seen.DEAD if sighting.refused:
            return Verdict(beat, "no sign of life, and its machine refuses connections: its process is gone", GRACE)
        case Seen.DEAD:
            return Verdict(beat, "no sign of life, and no answer to other hosts")


def _contradicted(heard: Heard, sighting: Sighting | None) -> bool:
    if sighting is None or sighting.state is not Seen.DEAD or heard.beat.state is NodeState.DOWN:
        return False
    return sighting.age >= CONTRADICTED_AFTER and heard.beat.age < MISSED_AFTER
