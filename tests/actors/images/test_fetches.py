"""The table of fetches: one per digest, tried again while that may help, given up when nobody asks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.images.fetches import COOL, MOST_WAITING, PATIENCE, RETRY_FIRST, RETRY_MAX, UNASKED, Fetch, Fetches
from actors.images.problems import ImageRefused, RegistryUnavailable
from actors.model.errors import NotFound, Problem, Unavailable

AWAY = RegistryUnavailable("registry r can't be reached: no route", "wait")
GONE = NotFound("registry r has no image r/app", fix="push it")


def asker(number: int) -> Any:
    """Return somebody who waits; only who it is counts."""
    return f"asker {number}"


def asked(table: Fetches, number: int, digest: str = "d", now: float = 0.0) -> None:
    table.ask(digest, f"registry/{digest}", asker(number), now)


def only(found: list[Fetch]) -> Fetch:
    (one,) = found
    return one


def test_however_many_wait_there_is_one_fetch() -> None:
    table = Fetches(2)
    for number in range(5):
        asked(table, number)
    fetch = only(table.start(0.0))
    assert (fetch.digest, fetch.source, table.start(0.0)) == ("d", "registry/d", [])
    assert table.join("d", asker(5), 1.0)
    assert table.succeeded(fetch) == [asker(number) for number in range(6)]
    assert not table.join("d", asker(6), 2.0)
    assert (len(table), table.running) == (0, 0)


def test_so_many_run_at_once_in_the_order_in_which_they_were_asked_for() -> None:
    table = Fetches(2)
    for number, digest in enumerate("abcd"):
        asked(table, number, digest)
    first = table.start(0.0)
    assert [fetch.digest for fetch in first] == ["a", "b"]
    assert "other images are fetched first" in dict(table.signs())[asker(2)].reason
    table.succeeded(first[1])
    assert [fetch.digest for fetch in table.start(0.0)] == ["c"]


def test_who_waits_hears_how_far_it_is() -> None:
    table = Fetches(1)
    asked(table, 1)
    fetch = only(table.start(0.0))
    fetch.progress.stage("downloading", 0, 100, 1000)
    fetch.progress.add(479)
    assert [(who, sign.reason) for who, sign in table.signs()] == [(asker(1), "fetching its image: 40 %")]
    assert list(table.signs()) == []  # until it asks again


def test_what_may_pass_is_tried_again_with_growing_waits_and_ends() -> None:
    table = Fetches(1)
    now, waits = 0.0, []
    asked(table, 1)
    while True:
        fetch = only(table.start(now))
        waiting = table.failed(fetch, AWAY, now, 0.999)
        if waiting:
            break
        assert not fetch.running
        assert table.start(now) == []
        waits.append(round(fetch.retry_at - now, 6))
        ((_, sign),) = table.signs()
        assert sign.reason == "fetching its image, tried again: registry r can't be reached: no route"
        now = fetch.retry_at
        assert table.join("d", asker(1), now)
    assert waiting == [asker(1)]
    assert waits == sorted(waits)
    assert waits[0] == pytest.approx(RETRY_FIRST, rel=0.01)
    assert waits[-1] == pytest.approx(RETRY_MAX, rel=0.01)
    assert PATIENCE <= now < PATIENCE + RETRY_MAX


def test_the_words_of_the_last_try_stay_while_the_next_one_runs() -> None:
    table = Fetches(1)
    asked(table, 1)
    table.failed(only(table.start(0.0)), AWAY, 0.0, 0.0)
    only(table.start(RETRY_MAX))
    ((_, sign),) = table.signs()
    assert sign.reason == "fetching its image: 0 %, tried again: registry r can't be reached: no route"


@pytest.mark.parametrize("problem", [GONE, ImageRefused("no", fix="push it again")])
def test_what_will_not_pass_is_told_at_once_and_not_asked_for_again_by_each(problem: Problem) -> None:
    table = Fetches(1)
    asked(table, 1)
    asked(table, 2)
    assert table.failed(only(table.start(5.0)), problem, 5.0, 0.0) == [asker(1), asker(2)]
    with pytest.raises(type(problem)) as caught:
        asked(table, 3, now=5.0 + COOL - 0.1)
    assert caught.value is problem
    asked(table, 3, now=5.0 + COOL)
    assert only(table.start(5.0 + COOL)).failures == 0


def test_what_nobody_asks_for_any_more_is_given_up() -> None:
    table = Fetches(1)
    asked(table, 1)
    asked(table, 2, "e")
    fetch = only(table.start(0.0))
    assert table.unasked(2 * UNASKED) == []  # they wait
    list(table.signs())
    table.join("e", asker(2), UNASKED)
    assert table.unasked(UNASKED) == [fetch]
    # What comes of it in spite of that is nobody's, nor another's.
    asked(table, 3)
    assert table.succeeded(fetch) == []
    assert table.failed(fetch, GONE, UNASKED, 0.0) == []
    asked(table, 4)
    assert len(table) == 2


def test_there_is_a_bound() -> None:
    table = Fetches(1)
    for number in range(MOST_WAITING):
        asked(table, number, f"d{number % 7}")
    with pytest.raises(Unavailable):
        asked(table, 0, "one more")


STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "start", "ok", "away", "gone", "signs", "unasked"]), st.integers(0, 3)),
    max_size=60,
)


@given(STEPS, st.integers(1, 3))
def test_everyone_is_answered_once_and_never_more_run_than_may(steps: list[tuple[str, int]], most: int) -> None:
    table = Fetches(most)
    now, number = 0.0, 0
    running: list[Fetch] = []
    waiting: set[str] = set()
    answers: Counter[str] = Counter()

    def answered(replies: list[Any]) -> None:
        for one in replies:
            answers[one] += 1
            waiting.discard(one)

    for what, which in steps:
        now += 7.0
        match what:
            case "ask":
                number += 1
                try:
                    table.ask(f"d{which}", "s", asker(number), now)
                except NotFound:
                    continue
                waiting.add(asker(number))
            case "start":
                running += table.start(now)
            case "signs":
                answered([reply for reply, _ in table.signs()])
            case "unasked":
                gone = table.unasked(now)
                assert not any(fetch.waiting for fetch in gone)
                running = [fetch for fetch in running if fetch not in gone]
            case _ if running:
                fetch = running.pop(which % len(running))
                if what == "ok":
                    answered(table.succeeded(fetch))
                else:
                    answered(table.failed(fetch, AWAY if what == "away" else GONE, now, 0.5))
        assert table.running == len(running) <= most
        assert len({fetch.digest for fetch in running}) == len(running)
    answered([reply for reply, _ in table.signs()])
    assert not waiting
    assert all(count == 1 for count in answers.values())
