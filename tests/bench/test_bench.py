"""That each question can be asked; what it answers is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.question import names

ROOT = Path(__file__).parents[2]
#: Questions about the actor runtime; those about whole processes have tests beside what they start.
IN_PROCESS = ["ask", "fan_in", "idle_memory", "placements_planned", "restart", "simulated_time", "spawn"]


def run(*args: str, seconds: float = 400) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)


def test_the_questions_are_found_by_their_files() -> None:
    assert set(IN_PROCESS) <= set(names())


@pytest.mark.parametrize("name", IN_PROCESS)
def test_each_question_answers(name: str) -> None:
    done = run(name, "--quick", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["questions"]
    ours, *others = result["answers"]
    assert ours["value"] > 0
    assert ours["ratio"] == 1
    assert others
    assert all(other["value"] is not None or other["note"] for other in others)


def test_the_table_names_unit_and_target() -> None:
    done = run("spawn", "ask", "--quick")
    assert done.returncode == 0, done.stderr
    assert "ask with deadline" in done.stdout
    assert "target ≤ 25" in done.stdout


def test_an_unknown_question_is_refused_with_the_known_ones() -> None:
    done = run("nonsense")
    assert done.returncode == 2
    assert "fan_in" in done.stderr
