"""What people and machines get wrong: each ends in a clear error, a true state, and nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from actors.model.ids import short_id
from tests.e2e import process as machine
from tests.e2e.archives import write_image
from tests.e2e.process import ROOT, HostProcess, running, until

SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
NEVER = ("--restart", "never")
SHELL = {"Entrypoint": ["/bin/sh", "-c"], "User": "app", "WorkingDir": "/tmp"}


def refused(host: HostProcess, *arguments: str, stdin: Path | None = None) -> str:
    done = host.cli(*arguments, stdin=stdin, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") or "\nerror: " in done.stderr
    return str(done.stderr)


def nothing_runs(host: HostProcess) -> None:
    until(lambda: all(n["placements"] == 0 for n in host.get("/api/v1/resources")["nodes"]), "placements to be removed")
    for instance in host.cli("ps", "--all", "--json"):
        for placement in host.get(f"/api/v1/instances/{instance['id']}/placements")["items"]:
            assert f"zw{short_id(UUID(placement['id']))}" not in machine.links()
    assert machine.processes_with(str(host.run / "vm")) == []


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("UPPER/case", "reference"),
        ("http://registry/app", "reference"),
        ("app:tag:tag", "reference"),
        ("127.0.0.1:1/app:1", "127.0.0.1:1"),
        ("./no-such-file.tar", "no-such-file.tar"),
    ],
)
def test_wrong_references_and_unreachable_registries(shared_host: HostProcess, reference: str, words: str) -> None:
    assert words in refused(shared_host, "deploy", reference)
    nothing_runs(shared_host)


def test_not_an_archive(shared_host: HostProcess, tmp_path: Path) -> None:
    junk = tmp_path / "junk.tar"
    junk.write_bytes(b"not a tar at all" * 1000)
    text = refused(shared_host, "deploy", "-", stdin=junk)
    assert "archive" in text
    # It is removed once the database knows what became of it, which is what we were told.
    until(lambda: not list((shared_host.data / "spool").glob("*")), "an empty spool")


def test_image_without_an_entrypoint(shared_host: HostProcess, tmp_path: Path) -> None:
    text = refused(shared_host, "deploy", str(write_image(tmp_path / "empty.tar", {})), *NEVER)
    assert "entrypoint" in text.lower()
    nothing_runs(shared_host)


def test_an_app_that_exits_at_once_says_how_and_with_which_words(shared_host: HostProcess, tmp_path: Path) -> None:
    image = write_image(tmp_path / "exits.tar", {**SHELL, "Cmd": ["echo no licence key; exit 3"]})
    text = refused(shared_host, "deploy", str(image), "--memory", "128MiB", "--name", "exits", *NEVER)
    assert "status 3" in text
    assert "no licence key" in text
    (item,) = [i for i in shared_host.cli("ps", "--json") if i["name"] == "exits"]
    assert (item["state"], item["outcome"], item["exit_status"]) == ("failed", "exited", 3)
    nothing_runs(shared_host)
    assert "no licence key" in shared_host.cli("logs", "exits").stdout
    shared_host.cli("rm", "exits", "--json")


def test_a_command_that_is_not_in_the_image(shared_host: HostProcess, tmp_path: Path) -> None:
    image = write_image(tmp_path / "missing.tar", {"Entrypoint": ["/no/such/program"]})
    text = refused(shared_host, "deploy", str(image), "--memory", "128MiB", "--name", "missing", *NEVER)
    assert "/no/such/program" in text
    nothing_runs(shared_host)
    shared_host.cli("rm", "missing", "--json")


def test_more_than_the_host_has_is_refused_with_the_numbers(shared_host: HostProcess, assets: Path) -> None:
    (node,) = shared_host.get("/api/v1/resources")["nodes"]
    most = node["capacity"]
    text = refused(shared_host, "deploy", str(assets / "hello.tar"), "--memory", "4TiB")
    assert "resources.memory" in text
    assert str(most["memory"] - node["machine"]["memory_overhead"]) in text
    assert "4194304" in text
    text = refused(shared_host, "deploy", str(assets / "hello.tar"), "--vcpu", str(most["vcpu"] + 1))
    assert "resources.vcpu" in text
    assert not [i for i in shared_host.cli("ps", "--json") if i["resources"]["memory"] == 4194304]


def test_what_is_not_there(shared_host: HostProcess) -> None:
    for command in (["stop", "nobody"], ["rm", "nobody", "--yes"], ["logs", "nobody"], ["images", "rm", "nobody"]):
        assert "nobody" in refused(shared_host, *command)


def test_removing_a_running_instance_asks_first(shared_host: HostProcess, assets: Path) -> None:
    instance = shared_host.cli(
        "deploy", str(assets / "hello.tar"), "--memory", "128MiB", "--name", "precious", "--json"
    )
    assert "--yes" in refused(shared_host, "rm", "precious")
    text = refused(shared_host, "images", "rm", instance["image_id"])
    assert "used" in text or "use" in text
    assert shared_host.cli("rm", "precious", "--yes", "--json")["state"] == "terminated"
    nothing_runs(shared_host)


def run_fails(*arguments: str, prefix: tuple[str, ...] = (), **environment: str) -> str:
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "zeitwork", "run", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=150, env={"PATH": SYSTEM_PATH, **environment},
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_second_process_on_the_same_data_directory(shared_host: HostProcess) -> None:
    text = run_fails("--data-dir", str(shared_host.data), "--http", "127.0.0.1:0")
    assert "in use" in text
    assert str(shared_host.process.pid if shared_host.process else "") in text
    assert shared_host.healthy()


def test_a_port_that_is_taken(shared_host: HostProcess, assets: Path, data_dir: Path) -> None:
    text = run_fails(
        "--data-dir", str(data_dir), "--http", f"127.0.0.1:{shared_host.port}", "--hypervisor", "qemu",
        ZEITWORK_ASSETS_DIR=str(assets),
    )  # fmt: skip
    assert "--http" in text
    assert str(shared_host.port) in text
    assert machine.processes_with(str(data_dir)) == []


def test_not_loopback(data_dir: Path) -> None:
    assert "loopback" in run_fails("--data-dir", str(data_dir), "--http", "0.0.0.0:8080")


def test_a_wrong_dsn(assets: Path, data_dir: Path) -> None:
    for dsn in ("postgresql://nobody@127.0.0.1:1/none", "not a dsn at all"):
        text = run_fails("--data-dir", str(data_dir), "--database-url", dsn, ZEITWORK_ASSETS_DIR=str(assets))
        assert "database_url" in text
    assert machine.processes_with(str(data_dir)) == []


def test_without_privileges(data_dir: Path, tmp_path: Path) -> None:
    as_nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
    if subprocess.run([*as_nobody, sys.executable, "-c", "import trio"], capture_output=True, timeout=30).returncode:
        pytest.skip("the interpreter is in a directory that other users can't read")
    text = run_fails("--data-dir", str(data_dir), prefix=as_nobody)
    assert "needs root" in text
    assert "sudo" in text
    assert not data_dir.exists()


def test_a_full_disk(assets: Path, data_dir: Path) -> None:
    data_dir.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=755", "tmpfs", str(data_dir)], check=True, timeout=10)
    try:
        text = run_fails("--data-dir", str(data_dir), "--hypervisor", "qemu", ZEITWORK_ASSETS_DIR=str(assets))
        assert "full" in text or "space" in text
        assert machine.processes_with(str(data_dir)) == []
    finally:
        subprocess.run(["umount", str(data_dir)], check=True, timeout=10)


def test_a_disk_that_fills_while_an_image_comes_in(assets: Path, data_dir: Path) -> None:
    images = data_dir / "images"
    images.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(images)], check=True, timeout=10)
    try:
        with running(HostProcess(data_dir, assets, ["--hypervisor", "qemu"])) as host:
            text = refused(host, "deploy", str(assets / "hello.tar"))
            assert "full" in text or "space" in text
            (image,) = json.loads(host.cli("images", "ls", "--json", check=False).stdout)
            assert image["status"] == "failed"
            assert [p for p in images.rglob("*") if p.is_file()] == []
    finally:
        subprocess.run(["umount", str(images)], check=True, timeout=10)
