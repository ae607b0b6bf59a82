"""Whether and when a virtual machine that ended by itself is started again. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from actors.model.restart import RestartMode, RestartPolicy
from actors.model.states import Outcome
from actors.vm.outcome import Ending

#: Seconds before the first new try and the longest wait; each failure in a row doubles it.
FIRST, LONGEST = 1.0, 300.0
#: Seconds that an app must have run for its earlier failures to be forgotten.
WELL = 300.0
#: The part of a wait that jitter may take away: many that failed together must not come back together.
JITTER = 0.25


@dataclass(frozen=True, slots=True)
class Restart:
    """The memory of it: ``failures`` is how often in a row it ended, ``spread`` in [0, 1) is this machine's jitter."""

    policy: RestartPolicy
    failures: int = 0
    spread: float = 0.0


#: For what is not started again.
NEVER = Restart(RestartPolicy(RestartMode.NEVER))


def decide(restart: Restart, ending: Ending, ran: float | None) -> tuple[Restart, float | None]:
    """Return the memory after this end, and the seconds to the next try, None when there is none.

    ``ran`` is how many seconds the app ran, None when nobody knows: then it counts as short.
    """
    failures = 1 if ran is not None and ran >= WELL else restart.failures + 1
    after = replace(restart, failures=failures)
    policy = restart.policy
    if policy.mode is RestartMode.NEVER:
        return after, None
    if policy.mode is RestartMode.ON_FAILURE and ending.outcome is Outcome.EXITED and ending.status == 0:
        return after, None
    if policy.max_attempts is not None and failures > policy.max_attempts:
        return after, None
    return after, wait(failures, restart.spread)


def wait(failures: int, spread: float) -> float:
    """Return the seconds to wait after so many failures in a row."""
    return longest_wait(failures) * (1.0 - JITTER * spread)


def longest_wait(failures: int) -> float:
    """Return the most seconds that are waited after so many failures in a row."""
    return min(LONGEST, FIRST * 2.0 ** min(max(0, failures - 1), 20))


def given_up(restart: Restart) -> str:
    """Return what to add to the reason of an end after which nothing is tried again."""
    attempts = restart.policy.max_attempts
    if restart.policy.mode is RestartMode.NEVER or not attempts or restart.failures <= attempts:
        return ""
    return f"; given up after {restart.failures} failures in a row"
