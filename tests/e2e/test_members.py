"""Three hosts on one machine: what they make of one that stands still, and of one whose process is gone."""

from __future__ import annotations

import shlex
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.e2e.process import HostProcess, running, until
from tests.ports import free_port


def newest(host: HostProcess) -> Any:
    """The host that has joined last, as that one shows it."""
    return max(host.get("/api/v1/nodes")["items"], key=lambda node: str(node["id"]))


def test_three_hosts_and_one_that_is_silent(assets: Path, directories: tuple[Path, Path, Path]) -> None:
    qemu = ["--hypervisor", "qemu"]
    with ExitStack() as stack:
        hosts: list[HostProcess] = []
        for directory in directories:
            joining = shlex.split(hosts[0].cli("token", "create").stdout.strip())[2:] if hosts else []
            own = ["--advertise", f"127.0.0.1:{free_port()}"]
            host = HostProcess(directory, assets, [*qemu, *joining, *own])
            stack.enter_context(running(host))
            hosts.append(host)
        first, second, third = hosts
        for host in hosts:
            until(
                lambda host=host: [one["state"] for one in host.get("/api/v1/members")["items"]] == ["alive"] * 3,  # type: ignore[misc]
                f"all are alive:\n{host.tail()}",
            )

        # It stands still: whoever tries gets no answer, neither the others nor the database.
        assert third.process is not None
        third.process.send_signal(signal.SIGSTOP)
        until(lambda: newest(first)["state"] == "down", f"its silence is noticed:\n{first.tail()}")
        assert "no sign of life" in newest(second)["reason"]
        until(lambda: newest(second)["membership"]["state"] == "dead", f"the others miss it too:\n{second.tail()}")
        assert not newest(second)["membership"]["refused"]
        third.process.send_signal(signal.SIGCONT)
        until(lambda: newest(second)["state"] == "ready", f"it is back:\n{third.tail()}")
        until(lambda: newest(second)["membership"]["state"] == "alive", f"also to the others:\n{third.tail()}")

        # Its process is gone, and its machine says so: what runs there still runs.
        third.kill()
        until(lambda: newest(first)["state"] == "down", f"its end is noticed:\n{first.tail()}")
        until(lambda: newest(second)["membership"]["state"] == "dead", f"the others miss it too:\n{second.tail()}")
        until(lambda: newest(second)["membership"]["refused"], "its machine says so")
        third.start()
        until(lambda: newest(second)["state"] == "ready", f"it is back:\n{third.tail()}")
