"""That the questions about virtual machines can be asked; what they answer is not judged here."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from bench import _minimal, vm_restore
from bench.__main__ import ask
from bench._bare import machines
from bench.question import Answer, Question, load, names
from tests.bench.test_bench import run

NAMES = ["vm_memory", "vm_rate", "vm_start", "vm_stop"]


def test_the_questions_are_found() -> None:
    assert {*NAMES, "vm_restore"} <= set(names())


def test_each_question_answers_and_leaves_nothing() -> None:
    if reason := _minimal.missing():
        pytest.skip(reason)
    done = run(*NAMES, "--quick", "--json")
    assert done.returncode == 0, done.stderr
    for result in json.loads(done.stdout)["questions"]:
        ours, *others = result["answers"]
        assert ours["value"] > 0, result
        assert ours["ratio"] == 1
        # What was published elsewhere is shown, and not compared.
        published = [answer for answer in others if "published" in answer["subject"]]
        assert published or result["name"] == "vm_stop"
        assert all(answer["ratio"] is None and answer["note"] for answer in published)
    links = subprocess.run(["ip", "-d", "link"], capture_output=True, text=True, check=True, timeout=90).stdout
    assert "zeitwork:bench:" not in links


def test_a_restore_answers() -> None:
    if reason := vm_restore.missing():
        pytest.skip(reason)
    done = run("vm_restore", "--quick", "--json", seconds=800)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["questions"]
    assert all(answer["value"] > 0 for answer in result["answers"]), result


def test_a_machine_that_is_bare_is_saved_restored_and_cleared() -> None:
    if reason := _minimal.missing():
        pytest.skip(reason)
    with machines(1) as (machine,):
        assert machine.start().all > 0
        address = str(machine.lease.v4)
        assert _minimal.answers(address, 90)
        machine.save()
        assert not _minimal.answers(address, 0.1)
        machine.restore()
        assert _minimal.answers(address, 90)
        directory: Path = machine.directory
    assert not directory.exists()
    assert not _minimal.answers(address, 0.1)


@pytest.mark.parametrize("name", [*NAMES, "vm_restore"])
def test_without_what_they_need_it_is_said_why(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    (answer,) = load(name).ask(True)
    assert answer.value is None
    assert "root" in answer.note


def test_what_stands_apart_has_no_ratio() -> None:
    answers = [Answer("ours", 2.0), Answer("a peer", 4.0), Answer("published", 6.0, "elsewhere", apart=True)]
    question = Question("x", "a question", "ms", "lower", lambda quick: iter(answers))
    assert [answer["ratio"] for answer in ask(question, quick=True)["answers"]] == [1.0, 2.0, None]
