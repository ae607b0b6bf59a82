"""When a machine that ended by itself is started again, for every policy and history."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.model.restart import RestartMode, RestartPolicy
from actors.model.states import Outcome
from actors.vm.outcome import Ending
from actors.vm.restart import FIRST, JITTER, LONGEST, WELL, Restart, decide, given_up, longest_wait, wait

policies = st.builds(RestartPolicy, st.sampled_from(RestartMode), st.none() | st.integers(1, 20))
memories = st.builds(Restart, policies, st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
endings = st.builds(Ending, st.sampled_from(Outcome), st.just("it ended"), st.none() | st.integers(0, 255))
short = st.none() | st.floats(0, WELL, exclude_max=True)


@given(memories, endings, short)
def test_every_wait_is_bounded_and_every_short_life_counts(memory: Restart, ending: Ending, ran: float | None) -> None:
    after, seconds = decide(memory, ending, ran)
    assert after.failures == memory.failures + 1
    assert seconds is None or FIRST * (1 - JITTER) <= seconds <= LONGEST
    assert (after.policy, after.spread) == (memory.policy, memory.spread)


@given(memories, endings, st.floats(WELL, 1e9))
def test_a_long_life_makes_the_next_failure_the_first(memory: Restart, ending: Ending, ran: float) -> None:
    after, seconds = decide(memory, ending, ran)
    assert after.failures == 1
    assert seconds is None or seconds <= FIRST


@given(memories, endings, short)
def test_only_the_policy_ends_the_trying(memory: Restart, ending: Ending, ran: float | None) -> None:
    after, seconds = decide(memory, ending, ran)
    mode, most = memory.policy.mode, memory.policy.max_attempts
    well = ending.outcome is Outcome.EXITED and ending.status == 0
    stays = mode is RestartMode.NEVER or (mode is RestartMode.ON_FAILURE and well)
    stays = stays or (most is not None and after.failures > most)
    assert (seconds is None) == stays


@given(policies, st.lists(endings, min_size=1, max_size=30))
def test_max_attempts_bounds_the_tries_in_a_row(policy: RestartPolicy, history: list[Ending]) -> None:
    memory, tries = Restart(policy), 0
    for ending in history:
        memory, seconds = decide(memory, ending, 0.1)
        if seconds is None:
            break
        tries += 1
    assert policy.max_attempts is None or tries <= policy.max_attempts


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_waits_grow_and_never_beyond_the_longest(failures: int, spread: float) -> None:
    assert wait(failures, spread) <= wait(failures + 1, spread) <= LONGEST
    assert wait(failures, spread) <= wait(failures, 0.0) == longest_wait(failures)


def test_the_waits_of_one_machine() -> None:
    assert [wait(count, 0.0) for count in (1, 2, 3, 4, 9, 10, 100)] == [1, 2, 4, 8, 256, 300, 300]


def test_it_says_when_it_gives_up() -> None:
    policy = RestartPolicy(RestartMode.ALWAYS, 3)
    assert given_up(Restart(policy, 4)) == "; given up after 4 failures in a row"
    assert given_up(Restart(policy, 1)) == ""
    assert given_up(Restart(RestartPolicy(RestartMode.NEVER), 9)) == ""
