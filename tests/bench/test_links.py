"""That what is between hosts can be measured; the figures are not judged here."""

from __future__ import annotations

import json

import pytest

from bench.membership import measure
from tests.bench.test_bench import run


@pytest.mark.parametrize("name", ["command_round_trip", "link_round_trip", "membership_processes"])
def test_each_question_answers(name: str) -> None:
    done = run(name, "--quick", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["questions"]
    assert all(answer["value"] > 0 for answer in result["answers"])


def test_a_simulated_crowd_is_measured() -> None:
    found = measure(8, crashes=1, rest=1.0)
    assert found.joined > 0
    assert found.sent > 0
    assert found.cpu > 0
    assert len(found.seen) == 1
    assert found.false == 0
