"""That the questions about whole processes can be asked; what they answer is not judged here."""

from __future__ import annotations

import json

import pytest

from bench._host import missing
from bench.question import load, names
from tests.bench.test_bench import run

NAMES = ["host_create", "host_memory", "host_start"]


def test_the_questions_are_found() -> None:
    assert set(NAMES) <= set(names())


def test_each_question_answers() -> None:
    if reason := missing():
        pytest.skip(reason)
    done = run(*NAMES, "--quick", "--json")
    assert done.returncode == 0, done.stderr
    for result in json.loads(done.stdout)["questions"]:
        assert all(answer["value"] > 0 for answer in result["answers"]), result
        assert len(result["answers"]) > 3


def test_without_what_a_host_needs_it_is_said_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    for name in NAMES:
        (answer,) = load(name).ask(True)
        assert answer.value is None
        assert "root" in answer.note
