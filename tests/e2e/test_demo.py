"""The demo, on a machine without IPv6: a network namespace in which it is switched off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import process as machine
from tests.e2e.process import ROOT

#: The demo below the command line, which would first run setup on this machine.
PROGRAM = """
import json, sys, trio
from zeitwork import logs
from zeitwork.cli.output import Progress
from zeitwork.config import load
from zeitwork.demo import Summary, demo_config, run_demo
logs.configure("warning", "json")
summary = Summary()
config = demo_config(load({"data_dir": sys.argv[1], "assets_dir": sys.argv[2], "hypervisor": "qemu"}))
trio.run(run_demo, config, summary, Progress(quiet=True), None)
print(json.dumps(summary.as_json()))
"""


def within(name: str) -> list[str]:
    """Return how to run a command in a namespace. `ip netns exec` would remount /, which a chroot does not allow."""
    return ["nsenter", f"--net=/run/netns/{name}", "--"]


@pytest.fixture
def without_ipv6() -> Iterator[str]:
    name = f"zwt-{uuid.uuid4().hex[:8]}"
    inside = within(name)
    subprocess.run(["ip", "netns", "add", name], check=True, timeout=10)
    try:
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True, timeout=10)
        for scope in ("all", "default"):
            setting = f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"
            subprocess.run([*inside, "sh", "-c", f"echo 1 >{setting}"], check=True, timeout=10)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True, timeout=10)


def test_demo_on_ipv4_alone_and_nothing_is_left(assets: Path, data_dir: Path, without_ipv6: str) -> None:
    done = subprocess.run(
        [*within(without_ipv6), sys.executable, "-c", PROGRAM, str(data_dir), str(assets)],
        cwd=ROOT, capture_output=True, text=True, timeout=500, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["ok"]
    assert summary["urls"] == [summary["url"]]
    assert summary["url"].startswith("http://10.")
    assert set(summary["seconds"]) == {"host", "hypervisor", "image", "boot", "http", "stop"}
    assert not data_dir.exists()
    assert machine.processes_with(str(data_dir)) == []
    left = subprocess.run(
        [*within(without_ipv6), "sh", "-c", "ip -o link; ip route; nft list ruleset"],
        capture_output=True, text=True, timeout=20, check=True,
    ).stdout  # fmt: skip
    assert [line.split(": ")[1] for line in left.splitlines() if line] == ["lo"], left


def test_the_demo_deletes_no_directory_that_holds_something(assets: Path, data_dir: Path) -> None:
    data_dir.mkdir(parents=True)
    precious = data_dir / "precious"
    precious.write_text("mine")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(data_dir), str(assets)],
        cwd=ROOT, capture_output=True, text=True, timeout=150, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode != 0
    assert "holds something" in done.stderr
    assert precious.read_text() == "mine"
