"""The pure policy, over all inputs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.restart import Backoff, Escalate, Intensity, Remove, StartAgain, affected, decide

kinds = st.sampled_from(["normal", "stopped", "failed"])
restarts = st.sampled_from(["permanent", "transient", "temporary"])
backoffs = st.builds(
    Backoff,
    free=st.integers(0, 5),
    first=st.floats(0, 10),
    factor=st.floats(1, 10),
    longest=st.floats(0, 100),
    jitter=st.floats(0, 1),
)
draws = st.floats(0, 1, exclude_max=True)


@given(restarts, kinds, st.lists(st.floats(0, 1000), max_size=20), st.integers(0, 10), backoffs, draws)
def test_who_comes_back(restart, kind, past, limit, backoff, draw) -> None:
    intensity = Intensity(limit, 60)
    history = tuple(sorted(past))
    now = 1000.0
    after, decision = decide(
        history, now=now, restart=restart, exit_kind=kind, intensity=intensity, backoff=backoff, draw=draw
    )
    recent = [at for at in history if now - at < 60]
    if restart == "temporary" or (restart == "transient" and kind != "failed"):
        assert decision == Remove()
        assert after == history
    elif len(recent) >= limit:
        assert decision == Escalate()
    else:
        assert isinstance(decision, StartAgain)
        assert after == (*recent, now)


@given(backoffs, st.integers(0, 10_000), draws, draws)
def test_waits_are_bounded_and_grow(backoff: Backoff, earlier: int, draw: float, other: float) -> None:
    wait = backoff.delay(earlier, draw)
    assert 0 <= wait <= backoff.longest
    assert backoff.delay(earlier, 0.0) <= backoff.delay(earlier + 1, 0.0) + 1e-9
    if earlier < backoff.free:
        assert wait == 0
    elif draw < other:
        assert wait >= backoff.delay(earlier, other)


@given(st.integers(1, 8), st.floats(0.1, 100), st.lists(st.floats(0, 50), min_size=1, max_size=60))
def test_no_more_restarts_in_any_window_than_the_limit(limit: int, within: float, gaps: list[float]) -> None:
    now, history, made = 0.0, (), []
    for gap in gaps:
        now += gap
        history, decision = decide(
            history,
            now=now,
            restart="permanent",
            exit_kind="failed",
            intensity=Intensity(limit, within),
            backoff=Backoff(),
            draw=0.5,
        )
        if isinstance(decision, StartAgain):
            made.append(now)
        assert len(history) <= limit
    for start in made:
        assert sum(1 for at in made if start <= at < start + within * 0.999999) <= limit


@given(st.lists(st.text("abcdef", min_size=1, max_size=2), min_size=1, unique=True), st.data())
def test_who_is_drawn_in(children: list[str], data: st.DataObject) -> None:
    ended = data.draw(st.sampled_from(children))
    assert affected("one_for_one", children, ended) == (ended,)
    assert affected("one_for_all", children, ended) == tuple(children)
    rest = affected("rest_for_one", children, ended)
    assert rest[0] == ended
    assert tuple(children[: len(children) - len(rest)]) + rest == tuple(children)


def test_nonsense_is_refused() -> None:
    for bad in ({"free": -1}, {"factor": 0.5}, {"jitter": 2}, {"longest": -1}, {"first": -1}):
        with pytest.raises(ValueError):
            Backoff(**bad)
    for limit, within in ((-1, 1), (1, 0)):
        with pytest.raises(ValueError):
            Intensity(limit, within)
