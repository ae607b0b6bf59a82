"""The service: systemd itself reads it, and it never touches VMs."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from actors.model.paths import HostPaths
from zeitwork.setup.options import SetupOptions
from zeitwork.setup.unit import unit_text


def section(text: str, name: str) -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    return parser[name]


def test_vms_outlive_the_service() -> None:
    service = section(unit_text(SetupOptions()), "Service")
    assert service["KillMode"] == "process"
    # Sockets of VMs are in the run directory, which systemd must not remove.
    assert "RuntimeDirectory" not in service
    assert service["Restart"] == "on-failure"
    assert service["Type"] == "notify"


def test_it_starts_this_installation_on_its_data() -> None:
    options = SetupOptions()
    words = section(unit_text(options), "Service")["ExecStart"].split()
    assert Path(words[0]).is_absolute()
    assert words[-1] == "run"
    moved = replace(options, paths=HostPaths(Path("/srv/100% mine"), Path("/run/zeitwork-x")))
    assert section(unit_text(moved), "Service")["ExecStart"].endswith('run --data-dir "/srv/100%% mine"')


def test_systemd_understands_it(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed")
    file = tmp_path / "zeitwork.service"
    file.write_text(unit_text(SetupOptions()))
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(file)], capture_output=True, text=True, timeout=120, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if "zeitwork.service" in line]
    assert (done.returncode, complaints) == (0, [])
