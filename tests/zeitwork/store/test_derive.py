"""An instance's state as a function of what is desired and what was observed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.model.records import Observation
from actors.model.states import InstanceDesired, InstanceState, Outcome, PlacementState
from zeitwork.store.derive import ending, instance_state

observations = st.builds(
    Observation,
    state=st.sampled_from(PlacementState),
    reason=st.sampled_from(["", "its own words"]),
    outcome=st.none() | st.sampled_from(Outcome),
    exit_status=st.none() | st.integers(0, 255),
)


@given(st.sampled_from(InstanceDesired), st.booleans(), observations)
def test_what_was_asked_for_is_never_a_failure(
    desired: InstanceDesired, superseded: bool, observation: Observation
) -> None:
    state, reason = instance_state(desired, superseded, observation)
    if observation.state is PlacementState.WAITING:
        looping = observation.outcome is Outcome.START_FAILED
        assert state is (InstanceState.CRASH_LOOP if looping else InstanceState.STARTING)
    elif observation.state is not PlacementState.REMOVED:
        assert state in (InstanceState.STARTING, InstanceState.RUNNING, InstanceState.PAUSED, InstanceState.STOPPING)
        assert (state is InstanceState.PAUSED) == (observation.state is PlacementState.PAUSED)
    elif desired is InstanceDesired.RUNNING and superseded:
        assert state is InstanceState.PENDING
    elif desired is InstanceDesired.RUNNING:
        assert state in (InstanceState.STOPPED, InstanceState.FAILED)
        assert reason
    else:
        assert state.value == desired.value
        assert reason


def test_from_the_second_end_in_a_row_on_it_is_a_crash_loop() -> None:
    seen = [Observation(PlacementState.WAITING, "boom", Outcome.EXITED, 1, failures=count) for count in (1, 2, 9)]
    states = [instance_state(InstanceDesired.RUNNING, False, one) for one in seen]
    assert states == [(InstanceState.STARTING, "boom"), *[(InstanceState.CRASH_LOOP, "boom")] * 2]


@given(observations)
def test_every_ending_is_a_sentence(observation: Observation) -> None:
    assert ending(observation)


@pytest.mark.parametrize(
    ("outcome", "status", "sentence"),
    [
        (Outcome.EXITED, 1, "the app exited with status 1"),
        (Outcome.EXITED, None, "the app exited"),
        (Outcome.SIGNALED, 11, "the app was ended by signal 11 (SIGSEGV)"),
        (Outcome.SIGNALED, 250, "the app was ended by signal 250"),
        (Outcome.KILLED, None, "it did not stop in time and was killed"),
        (Outcome.PANIC, None, "the guest kernel panicked"),
        (Outcome.VMM_DIED, None, "the virtual machine ended unexpectedly"),
    ],
)
def test_endings(outcome: Outcome, status: int | None, sentence: str) -> None:
    seen = Observation(PlacementState.REMOVED, outcome=outcome, exit_status=status)
    assert ending(seen) == sentence
    assert ending(replace(seen, reason="the host's own words")) == "the host's own words"
