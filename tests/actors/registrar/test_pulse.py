"""For how long a host's own signs of life have been written."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.registrar.actor import DEADLINE, INTERVAL
from actors.registrar.pulse import GAP, Pulse


def test_it_is_steady_from_the_first_sign_on_until_one_is_missed_for_long() -> None:
    pulse = Pulse()
    assert pulse.steady(100.0) == 0.0
    pulse.beat(100.0)
    assert pulse.steady(102.0) == 2.0
    pulse.beat(100.0 + GAP)
    assert pulse.steady(101.0 + GAP) == GAP + 1
    # Nothing for too long: not steady now, nor since then once there are signs again.
    assert pulse.steady(100.5 + 2 * GAP) == 0.0
    pulse.beat(101.0 + 2 * GAP)
    assert pulse.steady(103.0 + 2 * GAP) == 2.0


def test_a_sign_that_is_late_but_written_is_no_gap() -> None:
    assert GAP >= INTERVAL * 1.1 + DEADLINE * 0.9


@given(st.lists(st.integers(0, 20), min_size=1, max_size=30), st.integers(0, 20))
def test_it_is_as_long_as_the_last_row_of_signs(gaps: list[int], then: int) -> None:
    pulse, now, began = Pulse(), 0, None
    for gap in gaps:
        now += gap
        began = now if began is None or gap > GAP else began
        pulse.beat(now)
    assert began is not None
    assert pulse.steady(now + then) == (now + then - began if then <= GAP else 0)
