"""Who leads, as one process sees it: a state machine of the lease, without I/O.

`step` takes an event and the time and returns the next state and what is to be done. The time is CLOCK_BOOTTIME's
(``Environment.monotonic``): it goes on while the machine is suspended. A term is believed in until ``ttl`` minus
``margin`` after the last successful request was *sent*, so the store, which counts from when it got the request, ends
it later. Whatever leaves doubt (an error, a refusal, an answer that does not come) ends it at once. What remains (a
clock of the database that jumps by more than ``margin``, a process that is paused between a look at its clock and an
effect) is refused by the store itself, in the effect's own transaction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias
from uuid import UUID

from runtime.lease import Granted, Held, Term

#: First wait in seconds after a failure; it doubles up to the time between two renewals.
RETRY_FIRST = 0.25


@dataclass(frozen=True, slots=True)
class Rules:
    """Of one candidate. Seconds; ``margin`` is for clocks that differ in speed and small steps of the database's."""

    boot: UUID
    ttl: float = 10.0
    margin: float = 1.0

    def __post_init__(self) -> None:
        """Raise `ValueError` when a lease could not be renewed before it is given up."""
        if not 0 < self.margin < self.ttl / 2:
            raise ValueError("the margin must be positive and less than half of the ttl")

    @property
    def every(self) -> float:
        """Seconds between two renewals, and between two looks of those who wait."""
        return self.ttl / 3


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request on its way. Answers to any other than the present one are ignored."""

    number: int
    kind: Literal["acquire", "renew"]
    sent_at: float


@dataclass(frozen=True, slots=True)
class State:
    """``term`` is None unless this process leads, which it does until ``until``. ``due`` is when to ask next."""

    highest: int = 0
    term: Term | None = None
    until: float = 0.0
    attempt: Attempt | None = None
    due: float = 0.0
    failures: int = 0
    attempts: int = 0
    retired: bool = False

    @property
    def wake(self) -> float | None:
        """When the next `Tick` is due; None while only an answer changes anything."""
        times = []
        if self.attempt is None and not self.retired:
            times.append(self.due)
        if self.term is not None:
            times.append(self.until)
        return min(times, default=None)


# ---- events


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The store's answer to that attempt: ``Granted`` or ``Held``, of a renewal whether it was one."""

    number: int
    answer: Granted | Held | bool


@dataclass(frozen=True, slots=True)
class Lost:
    """That attempt failed or timed out: it may have been carried out or not."""

    number: int
    why: str


@dataclass(frozen=True, slots=True)
class Hinted:
    """Something about the lease has changed, they say."""


@dataclass(frozen=True, slots=True)
class Doubted:
    """A transaction of the term with that epoch was refused."""

    epoch: int
    why: str


@dataclass(frozen=True, slots=True)
class Unable:
    """What the leader of that epoch consists of could not be started here: another host shall try."""

    epoch: int
    why: str


@dataclass(frozen=True, slots=True)
class Retire:
    """This process ends."""


Event: TypeAlias = Tick | Answered | Lost | Hinted | Doubted | Unable | Retire


# ---- effects


@dataclass(frozen=True, slots=True)
class Acquire:
    """Ask for the lease, with an epoch above ``above``; an answer after ``within`` seconds is of no use."""

    number: int
    above: int
    within: float


@dataclass(frozen=True, slots=True)
class Renew:
    """Renew the lease; an answer after ``within`` seconds is of no use."""

    number: int
    term: Term
    within: float


@dataclass(frozen=True, slots=True)
class Lead:
    """Start what a leader does; it is over at ``until`` unless extended."""

    term: Term
    until: float


@dataclass(frozen=True, slots=True)
class Extend:
    """The term lasts until then."""

    term: Term
    until: float


@dataclass(frozen=True, slots=True)
class Leave:
    """Stop all that now, without a wait for anything."""

    term: Term
    why: str


@dataclass(frozen=True, slots=True)
class Resign:
    """Give the lease back, once all that has stopped."""

    term: Term


@dataclass(frozen=True, slots=True)
class Remember:
    """Keep the highest epoch seen."""

    epoch: int


Effect: TypeAlias = Acquire | Renew | Lead | Extend | Leave | Resign | Remember


def step(rules: Rules, state: State, event: Event, now: float, chance: float) -> tuple[State, tuple[Effect, ...]]:
    """Return the next state and what is to be done, in order. ``chance`` is drawn from [0, 1) for each step."""
    effects: list[Effect] = []
    if state.term is not None and now >= state.until:
        # First of all, whatever has come: nothing an answer says revives a term that was given up.
        state = _leave(rules, state, "its deadline has passed", now, chance, effects)
    match event:
        case Tick():
            pass
        case Answered(number, answer):
            if state.attempt is not None and state.attempt.number == number:
                state = _answered(rules, state, state.attempt, answer, now, chance, effects)
        case Lost(number, why):
            if state.attempt is not None and state.attempt.number == number:
                if state.term is not None:
                    state = _leave(rules, state, f"in doubt: {why}", now, chance, effects)
                else:
                    state = _retry(rules, state, now, chance)
        case Hinted():
            if state.term is None:
                # Not all of them at the same moment.
                state = replace(state, due=min(state.due, now + chance * rules.every / 20))
        case Doubted(epoch, why):
            if state.term is not None and state.term.epoch == epoch:
                state = _leave(rules, state, why, now, chance, effects)
        case Unable(epoch, why):
            if state.term is not None and state.term.epoch == epoch:
                term = state.term
                state = replace(_leave(rules, state, why, now, chance, effects), due=now + rules.every * (1 + chance))
                effects.append(Resign(term))
        case Retire():
            term_then = state.term
            if term_then is not None:
                state = _leave(rules, state, "resigned", now, chance, effects)
                effects.append(Resign(term_then))
            state = replace(state, retired=True, attempt=None)
    return _ask(rules, state, now, effects), tuple(effects)


def _ask(rules: Rules, state: State, now: float, effects: list[Effect]) -> State:
    """Send the next request when it is time."""
    if state.retired or state.attempt is not None or now < state.due:
        return state
    number = state.attempts + 1
    if state.term is None:
        effects.append(Acquire(number, state.highest, rules.ttl - rules.margin))
        attempt = Attempt(number, "acquire", now)
    else:
        effects.append(Renew(number, state.term, state.until - now))
        attempt = Attempt(number, "renew", now)
    return replace(state, attempt=attempt, attempts=number)


def _answered(
    rules: Rules,
    state: State,
    attempt: Attempt,
    answer: Granted | Held | bool,
    now: float,
    chance: float,
    effects: list[Effect],
) -> State:
    state = replace(state, attempt=None)
    until = attempt.sent_at + rules.ttl - rules.margin
    match answer:
        case Granted(epoch):
            newer = epoch > state.highest
            state = replace(state, highest=max(state.highest, epoch))
            if state.term is not None or not newer or now >= until:
                # Too late, or the store has forgotten what this host has seen: asked again, with a higher epoch.
                return _retry(rules, state, now, chance)
            term = Term(epoch, rules.boot, rules.ttl)
            effects.append(Lead(term, until))
            return replace(state, term=term, until=until, due=attempt.sent_at + rules.every, failures=0)
        case Held(epoch, _, left):
            if epoch > state.highest:
                effects.append(Remember(epoch))
            wait = min(max(left, 0.0), rules.every) + rules.every * (0.02 + 0.1 * chance)
            return replace(state, highest=max(state.highest, epoch), due=now + wait, failures=0)
        case True:
            if state.term is None:
                return state
            effects.append(Extend(state.term, until))
            return replace(state, until=until, due=attempt.sent_at + rules.every, failures=0)
        case _:
            if state.term is None:
                return state
            return _leave(rules, state, "the lease is not its own any more", now, chance, effects)


def _leave(rules: Rules, state: State, why: str, now: float, chance: float, effects: list[Effect]) -> State:
    assert state.term is not None
    effects.append(Leave(state.term, why))
    return _retry(rules, replace(state, term=None), now, chance)


def _retry(rules: Rules, state: State, now: float, chance: float) -> State:
    """Give up the attempt that is under way, if there is one, and wait."""
    ceiling = min(rules.every, RETRY_FIRST * 2.0 ** min(state.failures, 10))
    due = now + ceiling * (0.5 + chance / 2)
    if state.attempt is not None and now - state.attempt.sent_at > rules.every:
        # Requests get through, perhaps, and answers do not. What it may have been granted has to lapse and be had by
        # others first, or it would take its own lease again and again, and never know.
        due = max(due, state.attempt.sent_at + rules.ttl + rules.every / 2)
    return replace(state, attempt=None, due=due, failures=state.failures + 1)
