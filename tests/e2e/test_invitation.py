"""A host that was started unclaimed is invited through the API, and leaves again."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.archives import write_image
from tests.e2e.process import ROOT, HostProcess, links, nft, processes_with, running, until
from tests.ports import free_port


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


def code_of(host: HostProcess) -> re.Match[str]:
    return until(lambda: re.search(r"zeitwork nodes add (\S+) (\S+) (zwi1_\S+)\s", host.tail()), "its code is printed")


def ids(host: HostProcess) -> set[str]:
    return {one["id"] for one in host.get("/api/v1/nodes")["items"]}


def test_an_unclaimed_host_is_invited(assets: Path, directories: tuple[Path, Path, Path]) -> None:
    qemu = ["--hypervisor", "qemu"]
    first = HostProcess(directories[0], assets, [*qemu, "--advertise", f"127.0.0.1:{free_port()}"])
    own = f"127.0.0.1:{free_port()}"
    second = HostProcess(directories[1], assets, [*qemu, "--advertise", own, "--unclaimed"])
    with running(first):
        launch(second)
        try:
            former = code_of(second)
            assert former[2] == own
            # One that nobody wants ends in order, and has nothing to remember. Its code is worth nothing then.
            assert second.terminate() == 0
            assert not list((second.data / "trust").iterdir())
            second.log.unlink()
            launch(second)
            printed = code_of(second)
            stale = first.cli("nodes", "add", "h1", own, former[3], "--timeout", "20", check=False)
            assert stale.returncode == 1
            assert "was started anew since" in stale.stderr
            # Nobody without the code gets it: whoever guesses is told so, and the reason is the node's.
            wrong = printed[3][:-1] + ("B" if printed[3].endswith("A") else "A")
            refused = first.cli("nodes", "add", "h2", own, wrong, "--json", check=False)
            assert refused.returncode == 1
            assert "incomplete or was changed" in refused.stdout + refused.stderr
            refused = first.cli("nodes", "add", "h2", own, "--timeout", "60", check=False)
            assert refused.returncode == 1
            assert "only with the code" in refused.stderr

            node = first.cli("nodes", "add", "h2", own, printed[3], "--json")
            first.cli("nodes", "rm", "h1")
            assert node["state"] == "ready"
            until(second.healthy, f"it answers:\n{second.tail()}")
            assert ids(second) == ids(first)
            assert len(ids(first)) == 2
            assert printed[3] not in str(first.get("/api/v1/events"))

            # It leaves: nothing of the cluster stays on it, and the cluster knows it no more.
            left = second.cli("leave", "--json")
            assert (left["id"], left["state"]) == (node["id"], "terminated")
            assert second.process is not None
            assert second.process.wait(120) == 0, second.tail()
            assert not (directories[1] / "trust").exists()
            assert not (directories[1] / "host-id").exists()
            assert node["id"] not in ids(first)

            # With a token of the cluster it needs no code, and comes as another node.
            token = first.cli("token", "create").stdout.split()[-1]
            second.arguments = [*qemu, "--advertise", own, "--unclaimed", "--token", token]
            launch(second)
            again = first.cli("nodes", "add", "h2", own, "--json")
            assert again["state"] == "ready"
            assert again["id"] != node["id"]
            until(second.healthy, f"it answers:\n{second.tail()}")

            # The first host carries the database: it can't leave.
            refused = first.cli("leave", check=False)
            assert refused.returncode == 1
            assert "carries the database" in refused.stderr

            # It falls silent. Nobody removes it while it may live; then it is gone for good.
            assert second.process is not None
            second.process.send_signal(signal.SIGSTOP)
            refused = first.cli("nodes", "rm", again["id"], "--dead", check=False)
            assert refused.returncode == 1
            assert "is alive" in refused.stderr
            until(
                lambda: first.cli("nodes", "rm", again["id"], "--dead", check=False).returncode == 0,
                f"it is removed:\n{first.tail()}",
            )
            assert ids(first) == {first.get("/health")["node_id"]}
            # It was only asleep: it hears that it is of the cluster no more, and ends.
            second.process.send_signal(signal.SIGCONT)
            assert second.process.wait(120) == 1
            assert "this host was removed from the cluster" in second.tail()
            with pytest.raises(AssertionError, match="was removed from the cluster"):
                second.start()
            assert second.cli("leave", "--force", "--data-dir", str(second.data), "--json")["ended"] == 0
            assert not (directories[1] / "trust").exists()
        finally:
            if second.process is not None and second.process.poll() is None:
                second.process.send_signal(signal.SIGCONT)
                second.terminate()


def test_a_host_that_leaves_by_force_stops_what_runs_there(
    assets: Path, directories: tuple[Path, Path, Path], database_url: str
) -> None:
    arguments = ["--hypervisor", "qemu", "--database-url", database_url]
    one, two = (HostProcess(path, assets, arguments) for path in directories[:2])
    with running(one), running(two):
        # Nobody but this host has the image, so that it runs there.
        upload = write_image(directories[1].parent / "upload.tar", {"Cmd": ["/bin/sleep", "9999"]})
        made = two.cli("deploy", str(upload), "--memory", "128MiB", "--name", "web", "--json")
        own = two.get("/health")["node_id"]
        assert made["node_id"] == own
        (placement,) = two.get(f"/api/v1/instances/{made['id']}/placements")["items"]
        assert placement["pid"] in processes_with(placement["id"])
        refused = two.cli("leave", check=False)
        assert refused.returncode == 1
        assert "1 placements are still on" in refused.stderr
        assert "drain it first" in refused.stderr
        assert one.get(f"/api/v1/nodes/{own}")["state"] == "ready"

        left = two.cli("leave", "--force", "--json")
        assert left["state"] == "terminated"
        assert two.process is not None
        assert two.process.wait(120) == 0, two.tail()
        # One that nobody has taken note of yet is dead all the same.
        assert placement["pid"] not in processes_with(placement["id"])
        assert not any(two.config.tag in name for name in [*links(), nft()])
        assert not (two.data / "host-id").exists()
        # It is wanted still, and waits for a host that has its image.
        waits = one.get(f"/api/v1/instances/{made['id']}")
        assert (waits["desired_state"], waits["state"], waits["generation"]) == ("running", "pending", 2)
        assert ids(one) == {one.get("/health")["node_id"]}

        # The same machine comes back as another node, with its images as they were.
        two.start()
        assert two.get("/health")["node_id"] != own
