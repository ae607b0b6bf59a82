"""Run a test in a process and network namespace of its own: whatever it leaves behind dies with the process."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

ROOT = Path(__file__).parents[3]
INSIDE = "ZEITWORK_TEST_ISOLATED"
#: A PID namespace too: when the test ends, everything it started ends.
NEW = ("--net", "--pid", "--fork", "--kill-child", "--mount-proc")


def _propagation() -> list[str]:
    """Return what unshare needs inside a chroot: its / is no mount point, so it can't be made private."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    if any(fields[4] == "/" for fields in mounts):
        return []
    # What is mounted on a mount that nobody shares stays there.
    proc = [fields for fields in mounts if fields[4] == "/proc"]
    if not proc or any(field.startswith("shared:") for fields in proc for field in fields[6 : fields.index("-")]):
        pytest.skip("needs a private /proc: this is a chroot with a shared one")
    return ["--propagation", "unchanged"]


def isolated(test: Callable[..., Any]) -> Callable[[], None]:
    """Make ``test`` (sync or async, no fixtures) run alone inside a fresh network namespace. Needs root."""

    @functools.wraps(test)
    def outside() -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root: makes network namespaces")
        missing = [program for program in ("ip", "nft", "unshare", "nsenter", "busybox") if not shutil.which(program)]
        if missing:
            pytest.skip(f"needs {', '.join(missing)}")
        command = ["unshare", *NEW, *_propagation(), "--", sys.executable, "-m", "tests.actors.tap.isolated"]
        done = subprocess.run(
            [*command, test.__module__, test.__qualname__],
            cwd=ROOT, env=os.environ | {INSIDE: "1"}, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    # pytest must see a plain function without the wrapped one's coroutine nature.
    del outside.__wrapped__  # type: ignore[attr-defined]
    outside.inside = test  # type: ignore[attr-defined]
    return outside


def main() -> None:
    module, name = sys.argv[1:]
    test = getattr(importlib.import_module(module), name).inside
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=90)
    if inspect.iscoroutinefunction(test):
        trio.run(test)
    else:
        test()


if __name__ == "__main__":
    main()
