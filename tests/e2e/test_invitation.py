"""A host that was started unclaimed is invited through the API, and leaves again."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.process import ROOT, HostProcess, free_port, running, until


@pytest.fixture
def directories() -> Iterator[tuple[Path, Path]]:
    roots = [Path(tempfile.mkdtemp(prefix="zeitwork-e2e-", dir="/var/tmp")) for _ in range(2)]
    try:
        for root in roots:
            root.chmod(0o755)
        yield roots[0] / "data", roots[1] / "data"
    finally:
        for root in roots:
            shutil.rmtree(root, ignore_errors=True)


def launch(host: HostProcess) -> None:
    """Start a host without waiting for its endpoint, which it opens only once it was invited."""
    command = [
        sys.executable, "-m", "zeitwork", "run",
        "--data-dir", str(host.data), "--http", f"127.0.0.1:{host.port}", *host.arguments,
    ]  # fmt: skip
    with host.log.open("ab") as log:
        host.process = subprocess.Popen(
            command, cwd=ROOT, env=host.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def test_an_unclaimed_host_is_invited(assets: Path, directories: tuple[Path, Path]) -> None:
    qemu = ["--hypervisor", "qemu"]
    first = HostProcess(directories[0], assets, [*qemu, "--advertise", f"127.0.0.1:{free_port()}"])
    own = f"127.0.0.1:{free_port()}"
    second = HostProcess(directories[1], assets, [*qemu, "--advertise", own, "--unclaimed"])
    with running(first):
        launch(second)
        try:
            printed = until(
                lambda: re.search(r"zeitwork nodes add (\S+) (\S+) (zwi1_\S+)", second.tail()), "its code is printed"
            )
            assert printed[2] == own
            # Nobody without the code gets it: whoever guesses is told so, and the reason is the node's.
            wrong = printed[3][:5] + printed[3][6:7] + printed[3][5:6] + printed[3][7:]
            refused = first.cli("nodes", "add", "h2", own, wrong, "--json", check=False)
            assert refused.returncode == 1
            assert "incomplete or was changed" in refused.stdout + refused.stderr
            refused = first.cli("nodes", "add", "h2", own, "--timeout", "60", check=False)
            assert refused.returncode == 1
            assert "only with the code" in refused.stderr

            node = first.cli("nodes", "add", "h2", own, printed[3], "--json")
            assert node["state"] == "ready"
            until(second.healthy, f"it answers:\n{second.tail()}")
            assert {one["id"] for one in second.get("/api/v1/nodes")["items"]} == {
                one["id"] for one in first.get("/api/v1/nodes")["items"]
            }
            assert len(second.get("/api/v1/nodes")["items"]) == 2
            assert printed[3] not in str(first.get("/api/v1/events"))
        finally:
            if second.process is not None and second.process.poll() is None:
                second.terminate()
