from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.resource_monitor.trend import FARTHEST, exhausted_in, growth

NOON = 1_795_000_000.0


@given(slope=st.floats(-10, 10), start=st.floats(0, 1e6), count=st.integers(11, 200))
def test_a_straight_line_has_its_slope(slope: float, start: float, count: int) -> None:
    points = [(NOON + 60 * minute, start + slope * 60 * minute) for minute in range(count)]
    assert growth(points) == pytest.approx(slope, abs=1e-6)


def test_a_moment_has_no_trend() -> None:
    assert growth([]) is None
    assert growth([(NOON, 1.0), (NOON + 540, 100.0)]) is None
    assert growth([(NOON, 1.0), (NOON + 600, 601.0)]) == 1.0


def test_noise_around_a_line_does_not_hide_it() -> None:
    points = [(NOON + 60 * minute, 100 + minute + (5 if minute % 2 else -5)) for minute in range(240)]
    assert growth(points) == pytest.approx(1 / 60, rel=0.02)


@pytest.mark.parametrize(
    ("free", "slope", "seconds"),
    [(100, 2.0, 50.0), (0, -1.0, 0.0), (0, None, 0.0), (100, 0.0, None), (100, -1.0, None), (100, None, None)],
)
def test_when_it_is_used_up(free: float, slope: float | None, seconds: float | None) -> None:
    assert exhausted_in(free, slope) == seconds


def test_far_away_is_never() -> None:
    assert exhausted_in(FARTHEST, 0.9) is None
    assert exhausted_in(FARTHEST, 1.0) == FARTHEST
    assert exhausted_in(1.0, 5e-324) is None
