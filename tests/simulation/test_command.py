"""``python -m tests.simulation``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.__main__ import main
from tests.simulation.generate import generate
from tests.simulation.plan import Plan


def test_it_tells_what_was_broken_and_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "2", "--first", "3", "--hosts", "3", "--minutes", "1", "--jobs", "1"]) == 0
    told = capsys.readouterr().out
    assert "seed 3: 3 hosts" in told
    assert "seed 4: 3 hosts" in told
    assert "rules looked at" in told
    assert "no address twice" in told
    assert "simulated seconds in" in told
    assert "violations: 0 in 0 worlds" in told


def test_trouble_can_be_of_some_kinds_only(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--seeds", "1", "--hosts", "3", "--minutes", "1", "--jobs", "1"]
    assert main([*arguments, "--focus", "split", "--focus", "quit"]) == 0
    told = capsys.readouterr().out
    assert "split" in told
    assert "quit" in told
    assert "outage" not in told
    assert "hosts see each other" in told


def test_a_violation_is_told_and_its_plan_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Several: which world meets the bug changes with whatever changes worlds.
    arguments = ["--seeds", "4", "--hosts", "3", "--minutes", "1", "--jobs", "1", "--keep", "1"]
    assert main([*arguments, "--bug", "lease-leaked", "--into", str(tmp_path / "kept")]) == 1
    told = capsys.readouterr().out
    assert "VIOLATION" in told
    assert "violations: " in told
    (kept,) = (tmp_path / "kept").glob("*.json")
    plan = Plan.read(kept)
    assert "leases" in plan.note
    assert len(plan.items) < len(generate(plan.seed, 3, 1.0).items)
    assert main(["--plan", str(kept), "--bug", "lease-leaked"]) == 1
    assert main(["--plan", str(kept), "-v"]) == 0
    assert "placement.assigned" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--seeds", "0"],
        ["--jobs", "-1"],
        ["--hosts", "0"],
        ["--hosts", "5-3"],
        ["--hosts", "many"],
        ["--plan", "/nowhere/plan.json"],
        ["--bug", "of-which-nobody-knows"],
        ["--focus", "the-weather"],
    ],
)
def test_bad_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code not in (0, None)
    assert arguments[0] in f"{refused.value.code} {capsys.readouterr().err}"


def test_a_file_that_is_no_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(SystemExit, match="not a plan"):
        main(["--plan", str(tmp_path / "plan.json")])
