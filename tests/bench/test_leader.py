"""That failover can be measured; the figures are not judged here."""

from __future__ import annotations

import json

import pytest

from bench.question import load
from tests.bench.test_bench import run
from zeitwork.store.system_user import find_user


def test_failover_is_measured() -> None:
    if find_user() is None:
        pytest.skip("the database's system user does not exist")
    done = run("leader_failover", "--quick", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["questions"]
    killed, left, _, resigned = result["answers"]
    assert killed["value"] > 0
    assert left["value"] > 0
    assert resigned["value"] > 0


def test_without_the_databases_user_it_is_said_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.leader_failover.find_user", lambda: None)
    (answer,) = load("leader_failover").ask(True)
    assert answer.value is None
    assert "system user" in answer.note
