"""What is known of a server that may not answer, whatever is told of it in whatever order."""

from __future__ import annotations

import random

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from zeitwork.store.breaker import PROBE_FIRST, PROBE_MAX, Breaker, Silence


class Told(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(random.Random(1))
        self.now = 100.0
        self.answers = [0.0]
        self.tried = self.now

    @rule(seconds=st.floats(0, 5))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(ago=st.floats(0, 20))
    def an_answer(self, ago: float) -> None:
        before, at = self.breaker.silence, self.now - ago
        ended = self.breaker.answered(at)
        self.answers.append(at)
        assert ended == (before if before is not None and at >= before.since else None)
        assert (self.breaker.silence is None) == (before is None or ended is not None)

    @rule(ago=st.floats(0, 20))
    def no_answer(self, ago: float) -> None:
        before, since = self.breaker.silence, self.now - ago
        began = self.breaker.unanswered(since, self.now, "gone")
        assert began == (before is None and since >= max(self.answers))
        if began:
            assert self.breaker.silence == Silence(since, "gone", since)
            self.tried = self.now
        else:
            assert self.breaker.silence == before

    @rule()
    def tried_again(self) -> None:
        due = self.breaker.due(self.now)
        if due is None:
            return
        assert self.now + due - self.tried >= PROBE_FIRST / 2
        self.now = self.tried = self.now + due
        self.breaker.missed(self.now)

    @invariant()
    def nobody_is_refused_once_an_answer_has_come(self) -> None:
        silence = self.breaker.silence
        assert silence is None or max(self.answers) <= silence.since

    @invariant()
    def it_is_tried_again_soon(self) -> None:
        due = self.breaker.due(self.now)
        assert (due is None) == (self.breaker.silence is None)
        assert due is None or 0 <= due <= PROBE_MAX


TestTold = Told.TestCase


def test_tries_become_rarer_up_to_a_limit_and_begin_anew_in_the_next_silence() -> None:
    breaker = Breaker(random.Random(1))
    now = 10.0
    for _ in range(2):
        assert breaker.unanswered(now, now, "gone")
        waits: list[float] = []
        for _ in range(40):
            due = breaker.due(now)
            assert due is not None
            waits.append(due)
            now += due
            breaker.missed(now)
        assert waits[0] <= PROBE_FIRST
        assert all(PROBE_MAX / 2 <= wait <= PROBE_MAX for wait in waits[4:])
        assert len(set(waits)) == len(waits), "hosts that lost the server together come back apart"
        breaker.answered(now)
