"""What is sent to which host when: a state machine without I/O.

`step` takes an event and the time and returns the next state and what is to be done. What hosts have yet to carry out
comes from Postgres with each look and nothing is remembered beside it but who was told when: so the next leader loses
no command. An order is sent, and sent again with growing waits, until a look does not find it any more. A host that
can't be reached is tried with one order at a time, with growing waits of its own; one that is down is waited for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias
from uuid import UUID

from actors.commands.messages import Taken
from actors.commands.store import Note, Order

#: Commands on their way at once, and of those to one host.
MOST_FLYING, MOST_TO_ONE = 128, 16
#: First and largest wait in seconds before an order is sent again: one that was taken and is not yet seen to be carried
#: out, one that was refused, and any to a host that can't be reached.
TAKEN_FIRST, TAKEN_MAX = 5.0, 60.0
REFUSED_FIRST, REFUSED_MAX = 1.0, 30.0
UNREACHABLE_FIRST, UNREACHABLE_MAX = 0.5, 15.0
#: Seconds between two notes at least that a host was not reached: one that answers now and then is noted for each of
#: its orders, which may be thousands.
NOTED_AGAIN = 30.0


@dataclass(frozen=True, slots=True)
class Entry:
    """An order, how often it was sent, when it is to be sent (again), and the number of the command on its way."""

    order: Order
    due: float
    attempts: int = 0
    number: int | None = None
    #: What has been noted: that it was taken, that its host was not reached, and why it was refused last.
    taken: bool = False
    unreachable: bool = False
    refused: str = ""
    #: Until when it is not noted again that its host was not reached.
    quiet: float = 0.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """A host that was not reached so many times in a row, and when to try again."""

    failures: int
    until: float


@dataclass(frozen=True, slots=True)
class State:
    """What one leader has to say, by placement, and hosts that it does not reach. ``numbers`` were given so far."""

    epoch: int
    entries: Mapping[UUID, Entry] = field(default_factory=dict)
    troubles: Mapping[UUID, Trouble] = field(default_factory=dict)
    numbers: int = 0
    flying: int = 0

    def wake(self) -> float | None:
        """Return when to look again in order to send something, None when there is nothing that time changes."""
        times = []
        for entry in self.entries.values():
            if entry.number is None and not entry.order.away:
                trouble = self.troubles.get(entry.order.node_id)
                times.append(entry.due if trouble is None else max(entry.due, trouble.until))
        return min(times, default=None)


# ---- events


@dataclass(frozen=True, slots=True)
class Looked:
    """These are all orders that there are now."""

    orders: tuple[Order, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """What the host answered to the command with that number."""

    number: int
    placement_id: UUID
    answer: object


@dataclass(frozen=True, slots=True)
class Failed:
    """The command with that number was refused, or with ``unreachable`` got no answer."""

    number: int
    placement_id: UUID
    reason: str
    unreachable: bool


Event: TypeAlias = Looked | Answered | Failed


# ---- effects


@dataclass(frozen=True, slots=True)
class Send:
    """Send an order's command; what comes of it is told with that number."""

    number: int
    order: Order


@dataclass(frozen=True, slots=True)
class Write:
    """Write a step into the instance's log."""

    note: Note


@dataclass(frozen=True, slots=True)
class Wrong:
    """A host gave an answer that does not belong to its command: it counts for nothing."""

    order: Order
    answer: object


Effect: TypeAlias = Send | Write | Wrong


def step(state: State, event: Event, now: float, chance: float) -> tuple[State, tuple[Effect, ...]]:
    """Return the next state and what is to be done, in order. ``chance`` is drawn from [0, 1) for each step."""
    effects: list[Effect] = []
    match event:
        case Looked(orders):
            state = _send(_looked(state, orders, now), now, effects)
        case Answered(number, placement_id, answer):
            entry = state.entries.get(placement_id)
            state = replace(state, flying=max(0, state.flying - 1))
            if entry is not None and entry.number == number:
                state = _answered(state, entry, answer, now, chance, effects)
            state = _refill(state, now, effects)
        case Failed(number, placement_id, reason, unreachable):
            entry = state.entries.get(placement_id)
            state = replace(state, flying=max(0, state.flying - 1))
            if entry is not None and entry.number == number:
                if unreachable:
                    state = _unreachable(state, entry, reason, now, chance, effects)
                else:
                    state = _refused(_reached(state, entry.order.node_id), entry, reason, now, chance, effects)
            state = _refill(state, now, effects)
    return state, tuple(effects)


def _looked(state: State, orders: tuple[Order, ...], now: float) -> State:
    """Take over what there is; what is the same order as before keeps its place."""
    entries: dict[UUID, Entry] = {}
    back: set[UUID] = set()
    for order in orders:
        known = state.entries.get(order.placement_id)
        if known is None or replace(known.order, away=order.away) != order:
            # Of a command on its way for what was wanted before, the answer is of no use.
            entries[order.placement_id] = Entry(order, now)
        elif known.order.away and not order.away:
            back.add(order.node_id)
            entries[order.placement_id] = replace(known, order=order, due=now, unreachable=False)
        else:
            entries[order.placement_id] = replace(known, order=order)
    concerned = {entry.order.node_id for entry in entries.values()}
    troubles = {node: one for node, one in state.troubles.items() if node in concerned and node not in back}
    return replace(state, entries=entries, troubles=troubles)


def _answered(state: State, entry: Entry, answer: object, now: float, chance: float, effects: list[Effect]) -> State:
    order = entry.order
    state = _reached(state, order.node_id)
    if not isinstance(answer, Taken) or (answer.placement_id, answer.generation, answer.epoch) != (
        order.placement_id,
        order.generation,
        state.epoch,
    ):
        effects.append(Wrong(order, answer))
        return _again(state, entry, now + backoff(REFUSED_FIRST, REFUSED_MAX, entry.attempts, chance))
    if answer.superseded:
        return _refused(state, entry, "its host knows of a newer command", now, chance, effects)
    if not entry.taken:
        effects.append(Write(Note("taken", order, entry.attempts, answer.state or "")))
    wait = backoff(TAKEN_FIRST, TAKEN_MAX, entry.attempts, chance)
    return _again(state, replace(entry, taken=True, refused=""), now + wait)


def _refused(state: State, entry: Entry, reason: str, now: float, chance: float, effects: list[Effect]) -> State:
    if entry.refused != reason:
        effects.append(Write(Note("refused", entry.order, entry.attempts, reason)))
    wait = backoff(REFUSED_FIRST, REFUSED_MAX, entry.attempts, chance)
    return _again(state, replace(entry, refused=reason), now + wait)


def _again(state: State, entry: Entry, due: float) -> State:
    """Let an entry that was on its way wait for its next time."""
    entry = replace(entry, due=due, number=None)
    return replace(state, entries={**state.entries, entry.order.placement_id: entry})


def _reached(state: State, node_id: UUID) -> State:
    """A host has answered: a streak of failures, if there was one, is over for all that it is to be told."""
    if node_id not in state.troubles:
        return state
    entries = {
        key: replace(entry, unreachable=False) if entry.order.node_id == node_id else entry
        for key, entry in state.entries.items()
    }
    troubles = {node: one for node, one in state.troubles.items() if node != node_id}
    return replace(state, entries=entries, troubles=troubles)


def _unreachable(state: State, entry: Entry, reason: str, now: float, chance: float, effects: list[Effect]) -> State:
    """A host was not reached: that is so for all that it is to be told, and is noted for each, once in a streak."""
    node_id = entry.order.node_id
    trouble = state.troubles.get(node_id)
    if trouble is None or now >= trouble.until:
        # Of several that were on their way at once the first counts.
        failures = 0 if trouble is None else trouble.failures
        wait = backoff(UNREACHABLE_FIRST, UNREACHABLE_MAX, failures, chance)
        trouble = Trouble(failures + 1, now + wait)
    entries = dict(state.entries)
    for key, other in state.entries.items():
        if other.order.node_id != node_id:
            continue
        if not other.unreachable:
            quiet = other.quiet
            if now >= quiet:
                effects.append(Write(Note("unreachable", other.order, other.attempts, reason)))
                quiet = now + NOTED_AGAIN
            entries[key] = other = replace(other, unreachable=True, quiet=quiet)
        if key == entry.order.placement_id:
            entries[key] = replace(other, number=None, due=now)
    return replace(state, entries=entries, troubles={**state.troubles, node_id: trouble})


def _refill(state: State, now: float, effects: list[Effect]) -> State:
    """Send more once there is room for many: looking for them takes as long as there are orders."""
    return _send(state, now, effects) if state.flying <= MOST_FLYING // 2 else state


def _send(state: State, now: float, effects: list[Effect]) -> State:
    """Send what is due, within the limits."""
    to_host: dict[UUID, int] = {}
    for entry in state.entries.values():
        if entry.number is not None:
            to_host[entry.order.node_id] = to_host.get(entry.order.node_id, 0) + 1
    changed: dict[UUID, Entry] = {}
    numbers, flying = state.numbers, state.flying
    for key, entry in state.entries.items():
        if flying >= MOST_FLYING:
            break
        order = entry.order
        if entry.number is not None or order.away or entry.due > now:
            continue
        trouble = state.troubles.get(order.node_id)
        if trouble is not None and trouble.until > now:
            continue
        if to_host.get(order.node_id, 0) >= (MOST_TO_ONE if trouble is None else 1):
            continue
        to_host[order.node_id] = to_host.get(order.node_id, 0) + 1
        numbers, flying = numbers + 1, flying + 1
        changed[key] = replace(entry, number=numbers, attempts=entry.attempts + 1)
        if entry.attempts == 0:
            effects.append(Write(Note("sent", order, 1)))
        effects.append(Send(numbers, order))
    if not changed:
        return state
    return replace(state, entries={**state.entries, **changed}, numbers=numbers, flying=flying)


def backoff(first: float, most: float, attempts: int, chance: float) -> float:
    """Return the seconds to wait after so many attempts: they double up to ``most``, times 0.5 to 1."""
    return float(min(most, first * 2.0 ** min(max(attempts, 1) - 1, 20)) * (0.5 + chance / 2))
