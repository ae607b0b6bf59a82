"""Ids that sort by the time they were made, those of one process by the order in which it made them."""

from __future__ import annotations

import time
from threading import Thread
from uuid import RFC_4122, UUID

import pytest

from zeitwork.store import identifiers
from zeitwork.store.identifiers import new_id


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests make is nothing that other ids have to be above."""
    monkeypatch.setattr(identifiers, "_last", identifiers._last)


def test_each_is_above_the_one_before_it_whatever_the_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [time.time_ns() + 10**12]
    monkeypatch.setattr(time, "time_ns", lambda: clock[0])
    made: list[UUID] = []
    for step in (0, 0, 10**6, -(10**9), 3 * 10**9):
        clock[0] += step
        made += [new_id() for _ in range(500)]
    assert made == sorted(set(made))
    assert {(one.version, one.variant) for one in made} == {(7, RFC_4122)}
    # A clock that goes is what they tell.
    assert made[-1].int >> 80 == clock[0] // 1_000_000


def test_when_a_millisecond_has_no_more_of_them_the_next_one_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns() // 1_000_000 + 10**7
    monkeypatch.setattr(time, "time_ns", lambda: now * 1_000_000)
    monkeypatch.setattr(identifiers, "_last", (now, (1 << 74) - 1))
    first, second = new_id(), new_id()
    assert UUID(int=now << 80) < first < second
    assert first.int >> 80 == now + 1


def test_threads_never_make_the_same() -> None:
    made: list[UUID] = []
    threads = [Thread(target=lambda: made.extend(new_id() for _ in range(2000))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8000
