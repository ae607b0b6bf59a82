"""What is written down, and what must never be."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from zeitwork import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


def break_something() -> None:
    dsn = "postgresql://zeitwork:" + "-".join(["very", "secret"]) + "@db/zeitwork"
    assert dsn
    raise ValueError("no luck")


@pytest.mark.parametrize("form", ["json", "text"])
def test_tracebacks_hold_no_local_variables(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", form)
    try:
        break_something()
    except ValueError:
        structlog.get_logger().exception("it broke", placement="p1")
    written = capsys.readouterr().err
    assert "it broke" in written
    assert "no luck" in written
    assert "break_something" in written
    assert "very-secret" not in written
    if form == "json":
        (line,) = written.splitlines()
        assert json.loads(line)["placement"] == "p1"


def test_the_standard_librarys_logs_come_along(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    logging.getLogger("somebody").warning("look %s", "here")
    logging.getLogger("somebody").info("inner workings")
    (line,) = capsys.readouterr().err.splitlines()
    entry = json.loads(line)
    assert (entry["event"], entry["logger"], entry["level"]) == ("look here", "somebody", "warning")
