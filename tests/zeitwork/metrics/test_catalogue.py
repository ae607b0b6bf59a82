from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from zeitwork.metrics.catalogue import CATALOGUE, PROCESS, Kind, markdown


def test_names_are_unique_and_ours() -> None:
    names = [metric.name for metric in CATALOGUE]
    assert len(set(names)) == len(names)
    for metric in CATALOGUE:
        if metric not in PROCESS:
            assert re.fullmatch(r"zeitwork_[a-z_]+", metric.name)
        assert not metric.name.endswith("_total"), "prometheus-client adds it"
        assert metric.help.endswith(".")


def test_units_are_in_the_name() -> None:
    for metric in CATALOGUE:
        if metric.kind is Kind.HISTOGRAM:
            assert metric.name.endswith("_seconds")
        assert not metric.name.endswith(("_mib", "_ms"))


def test_the_table_has_every_metric() -> None:
    table = markdown()
    for metric in CATALOGUE:
        assert f"| `{metric.shown}` | {metric.kind} |" in table


def test_the_module_prints_the_table() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "zeitwork.metrics"], capture_output=True, text=True, timeout=120, check=True
    )
    assert printed.stdout == markdown()


def test_the_readme_shows_the_table() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    shown = readme.partition("<!-- metrics -->")[2].partition("<!-- end metrics -->")[0]
    assert shown.strip() == markdown().strip(), "renew it with: python -m zeitwork.metrics"
