"""Closing and opening by memory pressure: a table of examples, and what holds for any series of readings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.resource_monitor.admission import Admission, Thresholds, step
from actors.resource_monitor.messages import Pressure

LIMITS = Thresholds(close=20.0, calm=30.0)
CALM = Pressure(0.0, 0.0, 0.0, 0.0)
BETWEEN = Pressure(12.0, 12.0, 2.0, 2.0)
BUSY = Pressure(33.0, 8.0, 4.0, 1.0)
STALLED = Pressure(12.0, 8.0, 11.0, 1.0)
CLOSED = Admission(closed="memory pressure: earlier")


@pytest.mark.parametrize(
    ("pressure", "closes"), [(CALM, False), (BETWEEN, False), (None, False), (BUSY, True), (STALLED, True)]
)
def test_what_closes_an_open_host(pressure: Pressure | None, closes: bool) -> None:
    assert bool(step(Admission(), pressure, 0.0, LIMITS).closed) is closes


def test_the_reason_has_the_figures_and_stays() -> None:
    closed = step(Admission(), BUSY, 0.0, LIMITS)
    assert closed.closed == "memory pressure: tasks waited for memory 33 % of 10 s, all of them 4 %"
    assert step(closed, STALLED, 5.0, LIMITS) == closed


def test_it_opens_after_a_calm_without_interruption() -> None:
    state = CLOSED
    for now, pressure in ((0, CALM), (20, CALM), (25, BETWEEN), (30, CALM), (59, CALM)):
        state = step(state, pressure, float(now), LIMITS)
        assert state.closed == CLOSED.closed, now
    assert step(state, CALM, 60.0, LIMITS) == Admission()


def test_the_last_minute_counts_too() -> None:
    still = Pressure(0.0, 9.0, 0.0, 3.0)
    assert step(Admission(closed="x", calm_since=0.0), still, 100.0, LIMITS) == Admission(closed="x")


def test_a_kernel_that_tells_nothing_opens_it_in_the_end() -> None:
    state = step(CLOSED, None, 0.0, LIMITS)
    assert state.closed
    assert not step(state, None, 30.0, LIMITS).closed


percent = st.floats(0, 100)
readings = st.lists(
    st.tuples(st.floats(0.1, 60), st.none() | st.builds(Pressure, percent, percent, percent, percent)), max_size=60
)


@given(readings)
def test_it_flips_only_for_a_reason(series: list[tuple[float, Pressure | None]]) -> None:
    state, now, restless = Admission(), 0.0, 0.0
    for wait, pressure in series:
        now += wait
        before, state = state, step(state, pressure, now, LIMITS)
        if pressure is not None and max(pressure.some_avg10, pressure.some_avg60) >= LIMITS.reopen:
            restless = now
        if state.closed and not before.closed:
            assert pressure is not None
            assert pressure.some_avg10 >= 20 or pressure.full_avg10 >= 10
        if before.closed and not state.closed:
            assert now - restless >= LIMITS.calm
        if before.closed and state.closed:
            assert before.closed == state.closed
