"""From single probes to what an app is: ``step(pulse, event) -> (pulse, changed)``. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from actors.model.health import HealthState

#: Probes in a row that must succeed for an app to count as healthy.
SUCCESSES = 2
#: Seconds after its start during which an app that never answered is still left to come up.
GRACE = 60.0


@dataclass(frozen=True, slots=True)
class Pulse:
    """What is known of one start of an app. ``streak`` counts probes in a row that contradict ``state``."""

    state: HealthState = HealthState.UNKNOWN
    streak: int = 0
    answered: bool = False  # at least once since its start


@dataclass(frozen=True, slots=True)
class Probed:
    """One probe ended. ``failures`` is the check's own limit, ``age`` is seconds since the app's start."""

    answered: bool
    failures: int
    age: float


def step(pulse: Pulse, event: Probed) -> tuple[Pulse, bool]:
    """Return what is known now, and whether the state changed by it. Total: never raises."""
    pulse = replace(pulse, answered=pulse.answered or event.answered)
    verdict = HealthState.HEALTHY if event.answered else HealthState.UNHEALTHY
    if pulse.state is verdict:
        return replace(pulse, streak=0), False
    if not event.answered and not pulse.answered and event.age < GRACE:
        return replace(pulse, streak=0), False  # it is still coming up
    # Before anything is known a streak must be one of equal answers: it is kept signed.
    sign = 1 if event.answered else -1
    streak = pulse.streak + sign if pulse.streak * sign > 0 else sign
    needed = SUCCESSES if event.answered else max(1, event.failures)
    if abs(streak) < needed:
        return replace(pulse, streak=streak), False
    return replace(pulse, state=verdict, streak=0), True
