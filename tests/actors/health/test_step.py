"""Two failures down, two successes up, and time to come up: for every history of probes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.health.step import GRACE, SUCCESSES, Probed, Pulse, step
from actors.model.health import HealthState

histories = st.lists(
    st.builds(Probed, st.booleans(), st.just(2), st.sampled_from([0.0, GRACE - 1, GRACE, 1000.0])), max_size=40
)


@given(histories)
def test_a_change_needs_its_streak_and_is_told_once(history: list[Probed]) -> None:
    pulse, answers = Pulse(), []
    for probed in history:
        before = pulse.state
        pulse, changed = step(pulse, probed)
        answers.append(probed.answered)
        assert changed == (pulse.state is not before)
        if changed:
            assert answers[-2:] == [probed.answered] * 2
            assert pulse.state is (HealthState.HEALTHY if probed.answered else HealthState.UNHEALTHY)
        if len(answers) >= SUCCESSES and all(answers[-SUCCESSES:]):
            assert pulse.state is HealthState.HEALTHY


@given(histories, st.integers(1, 9))
def test_what_never_answered_is_given_time(history: list[Probed], failures: int) -> None:
    pulse = Pulse()
    for probed in history:
        pulse, _ = step(pulse, Probed(False, failures, min(probed.age, GRACE - 1)))
    assert pulse.state is HealthState.UNKNOWN
    for _ in range(failures):
        assert pulse.state is HealthState.UNKNOWN
        pulse, _ = step(pulse, Probed(False, failures, GRACE))
    assert pulse.state is HealthState.UNHEALTHY


def test_what_has_answered_once_gets_no_more_time() -> None:
    pulse, _ = step(Pulse(), Probed(True, 2, 0.0))
    for _ in range(2):
        pulse, changed = step(pulse, Probed(False, 2, 1.0))
    assert changed
    assert pulse.state is HealthState.UNHEALTHY


def test_one_bad_answer_between_good_ones_changes_nothing() -> None:
    pulse = Pulse(HealthState.HEALTHY, answered=True)
    for answered in (False, True, False, True):
        pulse, changed = step(pulse, Probed(answered, 2, 500.0))
        assert not changed
