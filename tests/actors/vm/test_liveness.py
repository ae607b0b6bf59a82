"""Unanswered questions in a row, and nothing else, make a machine doubtful and then lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.vm.liveness import DOUBT, LOST, Liveness, Part, heard, missed

answers = st.lists(st.tuples(st.sampled_from(list(Part)), st.booleans()), max_size=60)


@given(answers)
def test_the_verdict_follows_from_the_last_answers(sequence: list[tuple[Part, bool]]) -> None:
    liveness = Liveness()
    for part, answered in sequence:
        liveness = (heard if answered else missed)(liveness, part)

    def silent(part: Part) -> int:
        mine = [answered for item, answered in sequence if item is part]
        if part is Part.GUEST and not any(mine):
            return 0  # one that has never spoken has no agent
        return len(mine) - max((index + 1 for index, answered in enumerate(mine) if answered), default=0)

    worst = max(silent(part) for part in Part)
    assert bool(liveness.doubt) is (worst >= DOUBT)
    assert bool(liveness.lost) is (worst >= LOST)


def test_a_silent_monitor_is_the_reason_when_both_are_silent() -> None:
    liveness = heard(Liveness(), Part.GUEST)
    for _ in range(LOST):
        liveness = missed(missed(liveness, Part.GUEST), Part.MONITOR)
    assert liveness.lost == liveness.doubt == "its monitor does not answer"
    assert heard(liveness, Part.MONITOR).lost == "its guest's init does not answer"
