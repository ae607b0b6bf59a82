"""What an instance is, given what is desired of it and what was observed of its placement. Pure."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from actors.model.records import Observation
from actors.model.states import InstanceDesired, InstanceState, Outcome, PlacementState

_WHILE_IT_LIVES = {
    PlacementState.ASSIGNED: InstanceState.STARTING,
    PlacementState.PREPARING: InstanceState.STARTING,
    PlacementState.STARTING: InstanceState.STARTING,
    PlacementState.RUNNING: InstanceState.RUNNING,
    PlacementState.PAUSED: InstanceState.PAUSED,
    PlacementState.STOPPING: InstanceState.STOPPING,
    PlacementState.WAITING: InstanceState.STARTING,
}
#: From so many ends in a row on it is called a loop; one that never came to run its app is one at once.
_LOOP = 2
_ENDED_QUIETLY = (Outcome.STOPPED, Outcome.KILLED)


def instance_state(desired: InstanceDesired, superseded: bool, observation: Observation) -> tuple[InstanceState, str]:
    """Return an instance's state and the reason for it after one of its placements was observed.

    ``superseded`` says that a newer generation is desired than the placement's.
    """
    if observation.state is PlacementState.WAITING:
        looping = (observation.failures or 0) >= _LOOP or observation.outcome is Outcome.START_FAILED
        return InstanceState.CRASH_LOOP if looping else InstanceState.STARTING, observation.reason
    if observation.state is not PlacementState.REMOVED:
        return _WHILE_IT_LIVES[observation.state], observation.reason
    if desired is InstanceDesired.TERMINATED:
        return InstanceState.TERMINATED, ending(observation)
    if desired is InstanceDesired.STOPPED:
        return InstanceState.STOPPED, ending(observation)
    if superseded:
        return InstanceState.PENDING, ""
    # Nobody asked. An app that ended well is stopped, whatever else happened is a failure.
    if observation.outcome is Outcome.EXITED and observation.exit_status == 0:
        return InstanceState.STOPPED, ending(observation)
    if observation.outcome in _ENDED_QUIETLY:
        return InstanceState.STOPPED, observation.reason or "its host stopped it"
    return InstanceState.FAILED, ending(observation)


def observation_of(row: Mapping[str, Any]) -> Observation:
    """Return what the host saw last of a placement, from its row."""
    return Observation(
        state=PlacementState(row["state"]),
        reason=row["reason"],
        outcome=None if row["outcome"] is None else Outcome(row["outcome"]),
        exit_status=row["exit_status"],
        failures=row["failures"],
    )


def ending(observation: Observation) -> str:
    """Return a sentence about how a placement ended: the host's own, which knows most, or one made from the outcome."""
    if observation.reason:
        return observation.reason
    match observation.outcome:
        case Outcome.EXITED:
            status = observation.exit_status
            return "the app exited" if status is None else f"the app exited with status {status}"
        case Outcome.SIGNALED:
            return f"the app was ended by {_signal_name(observation.exit_status)}"
        case Outcome.STOPPED:
            return "stopped as asked"
        case Outcome.KILLED:
            return "it did not stop in time and was killed"
        case Outcome.START_FAILED:
            return "it could not be started"
        case Outcome.VMM_DIED:
            return "the virtual machine ended unexpectedly"
        case Outcome.PANIC:
            return "the guest kernel panicked"
        case Outcome.OOM_KILLED:
            return "its memory was used up"
        case Outcome.UNHEALTHY:
            return "it did not answer its health check"
        case _:
            return "it ended and nobody saw why"


def _signal_name(number: int | None) -> str:
    if number is None:
        return "a signal"
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
