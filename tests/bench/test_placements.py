"""That placing can be measured; the figures are not judged here."""

from __future__ import annotations

import json

import pytest

from bench.question import load
from tests.bench.test_bench import run
from zeitwork.store.system_user import find_user


def test_placing_is_measured() -> None:
    if find_user() is None:
        pytest.skip("the database's system user does not exist")
    done = run("placements_durable", "--quick", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["questions"]
    ours, *published = result["answers"]
    assert ours["value"] > 0
    assert "MiB" in ours["note"]
    assert all(one["ratio"] is None for one in published)


def test_without_the_databases_user_it_is_said_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.placements_durable.find_user", lambda: None)
    (answer,) = load("placements_durable").ask(True)
    assert answer.value is None
    assert "system user" in answer.note
