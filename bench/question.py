"""What a benchmark is: a question, and one measured answer for each subject that can be asked."""

from __future__ import annotations

import importlib
import pkgutil
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import bench

Better = Literal["lower", "higher"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One subject's figure. The first answer of a question is ours, the others are what it stands beside.

    ``value`` is None when it can't be measured here, and ``note`` says why. One that stands ``apart`` gets no ratio: it
    was published elsewhere, or is not the same thing measured.
    """

    subject: str
    value: float | None
    note: str = ""
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """A file ``bench/<name>.py`` has one of these as ``QUESTION`` and is found by that alone.

    ``ask`` measures; given True it measures briefly, to see that everything works. ``target`` is in ``unit``, at most
    that much when ``better`` is "lower" and at least that much when it is "higher".
    """

    name: str
    title: str
    unit: str
    better: Better
    ask: Callable[[bool], Iterator[Answer]]
    target: float | None = None

    def met(self, value: float) -> bool | None:
        """Tell whether ``value`` reaches the target; None without one."""
        if self.target is None:
            return None
        return value <= self.target if self.better == "lower" else value >= self.target


def names() -> list[str]:
    """Return the names of all questions: the files of this package but this one and those that begin with ``_``."""
    found = (module.name for module in pkgutil.iter_modules(bench.__path__))
    return sorted(name for name in found if not name.startswith("_") and name != "question")


def load(name: str) -> Question:
    """Return one question. Only its own file is imported: what another one needs may be missing."""
    question = importlib.import_module(f"bench.{name}").QUESTION
    if not isinstance(question, Question) or question.name != name:
        raise TypeError(f"bench/{name}.py must have a Question named {name} as QUESTION")
    return question


def best_of(
    rounds: int, better: Better, subjects: Mapping[str, Callable[[], float]], notes: Mapping[str, str]
) -> Iterator[Answer]:
    """Measure every subject once a round, and answer with the best of each.

    Rounds and not one subject after the other, so that other work on the machine disturbs all alike; the best and not
    the mean, since disturbance only ever makes a figure worse.
    """
    best: dict[str, float] = {}
    choose = min if better == "lower" else max
    for _ in range(rounds):
        for subject, measure in subjects.items():
            value = measure()
            best[subject] = choose(best.get(subject, value), value)
    for subject, value in best.items():
        yield Answer(subject, value, notes.get(subject, ""))


def median_of(times: int, measure: Callable[[], float]) -> float:
    """Measure several times and return the median: for what is slow and stands alone."""
    return statistics.median(measure() for _ in range(times))
