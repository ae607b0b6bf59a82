"""Two real hosts on one Postgres: one dies with its machine and comes back, the other is drained."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.archives import write_image
from tests.e2e.process import HostProcess, answers, running, until
from tests.ports import free_port


def me(host: HostProcess) -> str:
    return str(host.get("/health")["node_id"])


def node(host: HostProcess, node_id: str) -> Any:
    return host.get(f"/api/v1/nodes/{node_id}")


def tries(host: HostProcess, instance: Any) -> list[Any]:
    return list(host.get(f"/api/v1/instances/{instance['id']}/placements")["items"])


def runs_on(host: HostProcess, instance: Any, node_id: str) -> Any:
    """Return the instance once it runs there, else None."""
    found = host.get(f"/api/v1/instances/{instance['id']}")
    there = (found["state"], found["node_id"]) == ("running", node_id)
    return found if there and found["observed_generation"] == found["generation"] else None


@contextmanager
def in_registry(archive: Path) -> Iterator[str]:
    """Run a registry that has the archive's image; yield the reference."""
    for program in ("docker-registry", "skopeo"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    with tempfile.TemporaryDirectory(prefix="zeitwork-e2e-") as folder:
        where = Path(folder)
        config, log, port = where / "registry.yml", where / "registry.log", free_port()
        config.write_text(
            f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {where}/storage}}}}\n"
            f'http: {{addr: "127.0.0.1:{port}"}}\n'
        )
        with log.open("wb") as out:
            process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=out, stderr=out)
        try:
            until(lambda: answers(f"http://127.0.0.1:{port}/v2/"), f"the registry; log: {log}")
            name = f"127.0.0.1:{port}/hello:latest"
            command = ["skopeo", "copy", "--insecure-policy", "--dest-tls-verify=false"]
            command += [f"oci-archive:{archive}", f"docker://{name}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=180)
            assert done.returncode == 0, done.stderr
            yield name
        finally:
            process.kill()
            process.wait(10)


def roots(host: HostProcess) -> list[tuple[str, bytes]]:
    """Return the root filesystems that a host has, by digest."""
    return sorted((path.parent.name, path.read_bytes()) for path in host.config.paths.images.glob("*/rootfs.squashfs"))


def test_an_instance_outlives_its_host_and_leaves_one_that_is_drained(
    assets: Path, directories: tuple[Path, Path, Path], database_url: str
) -> None:
    arguments = ["--hypervisor", "qemu", "--database-url", database_url]
    one, two = (HostProcess(path, assets, arguments) for path in directories[:2])
    with ExitStack() as stack:
        image = stack.enter_context(in_registry(assets / "hello.tar"))
        stack.enter_context(running(one))
        made = one.cli("deploy", image, "--memory", "128MiB", "--name", "web", "--json")
        # Of another one nobody but this host can have the image.
        upload = write_image(directories[0].parent / "upload.tar", {"Cmd": ["/bin/sleep", "9999"]})
        stays = one.cli("deploy", str(upload), "--memory", "128MiB", "--name", "stays", "--json")
        stack.enter_context(running(two))
        stack.callback(lambda: one.process is None or one.process.poll() is None or one.start())
        first, second = me(one), me(two)
        assert made["node_id"] == first
        assert roots(two) == []

        # A machine that loses power takes the process and the virtual machine with it.
        (old,), (alone,) = tries(one, made), tries(one, stays)
        assert one.process is not None
        one.process.send_signal(signal.SIGSTOP)  # it must not see the other's end
        os.kill(old["pid"], signal.SIGKILL)
        one.kill()
        moved = until(lambda: runs_on(two, made, second), "the instance on the other host", 180)
        assert moved["generation"] == 2
        assert node(two, first)["state"] == "down"
        assert "no sign of life" in node(two, first)["reason"]
        until(lambda: answers(f"http://{moved['ipv4']}:8080/"), "its answer")
        # It fetched what the other one had made.
        assert len(roots(two)) == 1
        assert set(roots(two)) < set(roots(one))
        lost, new = tries(two, made)
        assert (lost["id"], lost["state"], lost["kept"], new["node_id"]) == (old["id"], "running", False, second)
        assert lost["lost_at"]
        unknown = two.get(f"/api/v1/instances/{stays['id']}")
        assert (unknown["state"], unknown["generation"]) == ("unknown", 1)
        assert "no other host has its image" in unknown["reason"]

        # Back again, its host removes what is not its own any more.
        one.start()
        until(lambda: tries(one, made)[0]["state"] == "removed", "the end of what was lost")
        until(lambda: node(one, first)["state"] == "ready", "its return")
        assert runs_on(one, made, second)
        until(lambda: runs_on(one, stays, first), "what had to wait for its host")
        assert [one_try["pid"] for one_try in tries(one, stays)] == [alone["pid"]]

        # A drain starts the replacement first.
        two.cli("drain", second, "--no-wait")
        back = until(lambda: runs_on(one, made, first), "the instance back on the first host", 180)
        assert back["generation"] == 3
        until(lambda: answers(f"http://{back['ipv4']}:8080/"), "its answer")
        until(lambda: tries(one, made)[1]["state"] == "removed", "the end of the one before")
        events = one.get(f"/api/v1/instances/{made['id']}/events?limit=200")["items"]
        whats = [event["what"] for event in events]
        assert whats.count("instance.moved") == 2
        states = [(event["subject_id"], event["data"]["to"]) for event in events if event["what"] == "placement.state"]
        assert states.index((back["placement_id"], "running")) < states.index((new["id"], "stopping"))
