"""``zeitwork setup`` as typed. Nothing here changes the machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from actors.model.errors import Failed
from zeitwork.cli import main
from zeitwork.config import Config
from zeitwork.setup import command
from zeitwork.setup.options import SetupOptions, SetupResult
from zeitwork.setup.ready import Missing


def test_a_dry_run_shows_each_step_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    assert main(["setup", "--dry-run", "--json", "--data-dir", str(data)]) == 0
    steps = json.loads(capsys.readouterr().out)
    assert {"name": "directories"}.items() <= steps[0].items()
    assert all(step["change"] and step["undo"] for step in steps)
    assert main(["setup", "--dry-run", "--data-dir", str(data)]) == 0
    assert str(data) in capsys.readouterr().out
    assert main(["setup", "--remove", "--dry-run", "--data-dir", str(data)]) == 0
    assert "Nothing to do." in capsys.readouterr().out
    assert not data.exists()


def test_without_a_terminal_and_without_yes_nothing_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: another user is refused before being asked")
    data = tmp_path / "data"
    with open(os.devnull) as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        assert main(["setup", "--data-dir", str(data), "--json"]) == 1
    captured = capsys.readouterr()
    assert "give --yes" in captured.err
    assert json.loads(captured.out)["declined"]
    assert not data.exists()


@pytest.mark.parametrize("words", [["--purge"], ["--remove", "--systemd"]])
def test_words_that_do_not_go_together(words: list[str]) -> None:
    assert main(["setup", *words]) == 2


def test_removing_what_was_never_set_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["setup", "--remove", "--yes", "--data-dir", str(tmp_path / "data")]) == 0
    assert "Nothing to remove" in capsys.readouterr().err


def test_the_demo_asks_only_when_something_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[SetupOptions] = []
    answer = SetupResult(done=("kernel",))
    missing: list[Missing] = []

    def run_setup(options: SetupOptions, ui, *, yes: bool, command: str) -> SetupResult:
        asked.append(options)
        return answer

    monkeypatch.setattr(command, "run_setup", run_setup)
    monkeypatch.setattr(command, "ensure_ready", lambda _options, hello: missing)
    config = Config(data_dir=Path("/tmp/demo"), assets_dir=Path("/var/lib/zeitwork"))
    command.setup_if_needed(config, yes=False)
    assert asked == []
    missing.append(Missing("kernel", "a guest kernel"))
    command.setup_if_needed(config, yes=True)
    assert asked[0].home == Path("/var/lib/zeitwork")
    answer = SetupResult(declined=True)
    with pytest.raises(Failed, match="without: kernel"):
        command.setup_if_needed(config, yes=False)
