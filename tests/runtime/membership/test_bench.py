"""That the benchmark of membership can be asked; what it answers is not judged here."""

from __future__ import annotations

from bench.question import load


def test_each_figure_is_measured() -> None:
    ours, *others = load("membership").ask(True)
    assert ours.value is not None
    assert ours.value > 0
    assert ours.note
    assert len(others) > 6
    assert all(other.value is not None and other.value > 0 for other in others)
