"""Programs are run to their end or to their deadline, and apt outlives its caller."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zeitwork.setup.tools import SystemTools


def test_both_streams_and_the_status_come_back() -> None:
    said: list[str] = []
    ran = SystemTools().run(["sh", "-c", "echo one; echo two >&2; exit 3"], timeout=90, line=said.append)
    assert (ran.status, ran.output, said) == (3, "one\ntwo\n", ["one", "two"])


def test_a_program_that_is_not_there() -> None:
    ran = SystemTools().run(["/nowhere/program"], timeout=90)
    assert ran.status == 127
    assert "No such file" in ran.last_words


def test_a_program_that_does_not_end_is_ended() -> None:
    ran = SystemTools().run(["sh", "-c", "echo waiting; exec sleep 600"], timeout=0.3)
    assert ran.status == 124
    assert "did not end within" in ran.last_words


def test_the_last_words_prefer_errors() -> None:
    ran = SystemTools().run(["sh", "-c", "echo E: no space left; echo one; echo two; echo three; exit 1"], timeout=90)
    assert ran.last_words == "E: no space left"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_what_must_finish_does_so_whatever_happens_to_its_caller(tmp_path: Path, number: signal.Signals) -> None:
    started, go_on, finished = tmp_path / "started", tmp_path / "go-on", tmp_path / "finished"
    script = f"touch {started}; while [ ! -e {go_on} ]; do sleep 0.02; done; echo written after; touch {finished}"
    call = f"SystemTools().run(['sh', '-c', {script!r}], timeout=250, finish=True)"
    # The tests themselves may have been started in the background, where shells have SIGINT ignored.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heed}\nfrom zeitwork.setup.tools import SystemTools\n{call}"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, start_new_session=True) as caller:
        until(started)
        os.killpg(caller.pid, number)  # as a terminal does
        if number is signal.SIGKILL:
            caller.wait(90)
        go_on.touch()
        until(finished)
        assert caller.wait(90) != 0


def until(path: Path) -> None:
    deadline = time.monotonic() + 90
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.01)
