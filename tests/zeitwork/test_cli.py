"""What the command line does when things around it break: the host, its output, its input, the person."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.model.errors import Unavailable
from runtime.links.names import Names
from zeitwork.cli import main
from zeitwork.cli.client import Client
from zeitwork.cli.host import _run_trio
from zeitwork.cli.sources import add_image

INSTANCE = {
    "id": "0198c4f2-0000-7000-8000-000000000001",
    "name": "web",
    "state": "running",
    "desired_state": "running",
    "generation": 1,
    "observed_generation": 1,
    "reason": "",
    "default_port": 80,
    "resources": {"vcpu": 1, "memory": 128, "disk": 128},
    "created_at": "2026-11-23T12:00:00+00:00",
    "ipv4": "10.0.0.2",
}
SNAPSHOT = {
    "id": "0198c4f2-0000-7000-8000-00000000000a",
    "name": "before",
    "instance": "web",
    "state": "creating",
    "reason": "",
    "size": 0,
    "created_at": "2026-11-23T12:00:00+00:00",
}
STARTING = INSTANCE | {"state": "starting"}


class StandIn:
    """Answers with what is in ``answers`` for a path, the last one again and again."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, bytes]]] = {}
        self.bodies: list[bytes] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer()

            def do_DELETE(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = b""
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                else:
                    body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.bodies.append(body)
                self._answer()

            def _answer(self) -> None:
                queue = outer.answers[self.path.partition("?")[0]]
                status, body = queue.pop(0) if len(queue) > 1 else queue[0]
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                del format, args

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        # It looks so often whether it is to end.
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def say(self, path: str, *answers: Any, status: int = 200) -> None:
        """Append answers: JSON values, or bytes as they are."""
        texts = [answer if isinstance(answer, bytes) else json.dumps(answer).encode() for answer in answers]
        self.answers.setdefault(path, []).extend((status, text) for text in texts)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    stand_in = StandIn()
    monkeypatch.setenv("ZEITWORK_URL", stand_in.url)
    monkeypatch.setattr("zeitwork.cli.waiting.FIRST_PAUSE", 0.001)
    monkeypatch.setattr("zeitwork.cli.waiting.LAST_PAUSE", 0.01)
    monkeypatch.setattr("zeitwork.cli.waiting.STAYS", 0.05)
    try:
        yield stand_in
    finally:
        stand_in.close()


def page(*items: Any) -> dict[str, Any]:
    return {"items": list(items), "next_cursor": None}


def one(host: StandIn) -> str:
    host.say("/api/v1/instances", page(INSTANCE))
    host.say("/api/v1/groups", page())
    return f"/api/v1/instances/{INSTANCE['id']}"


def run(host: StandIn, *arguments: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"ZEITWORK_URL": host.url}
    return subprocess.run(
        [sys.executable, "-m", "zeitwork", *arguments], env=environment, timeout=120, check=False, **more
    )


def test_a_host_that_is_away_for_a_moment_is_waited_for(
    host: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = one(host)
    host.say(f"{path}/start", STARTING)
    host.say(path, {"detail": "the database is away", "code": "store-unavailable"}, status=503)
    host.say(path, STARTING, INSTANCE)
    asked = Client.get
    broken = iter([True])

    def get(self: Client, path: str, **params: Any) -> Any:
        if "0198c4f2" in path and next(broken, False):
            raise Unavailable("no host answers", fix="start one")
        return asked(self, path, **params)

    monkeypatch.setattr(Client, "get", get)
    assert main(["start", "web"]) == 0
    told = capsys.readouterr()
    assert "web is running" in told.out
    assert "no host answers" in told.err
    assert "the database is away" in told.err


def test_the_end_is_waited_for_once(host: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    path = one(host)
    host.say(path, INSTANCE | {"state": "terminated", "generation": 2, "reason": "stopped"})
    assert main(["rm", "web", "--yes"]) == 0
    assert "web is terminated" in capsys.readouterr().out


def test_a_host_without_groups_removes_instances(host: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    path = one(host)
    del host.answers["/api/v1/groups"]
    host.say("/api/v1/groups", {"detail": "there is nothing at /api/v1/groups"}, status=404)
    host.say(path, INSTANCE | {"state": "terminated"})
    assert main(["rm", "web", "--yes"]) == 0
    assert "web is terminated" in capsys.readouterr().out


def test_a_host_that_stays_away_is_said(
    host: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("zeitwork.cli.waiting.PATIENCE", 0.05)
    path = one(host)
    host.say(f"{path}/start", STARTING)
    host.say(path, {"detail": "the database is away", "code": "store-unavailable"}, status=503)
    assert main(["start", "web"]) == 1
    assert "error: the database is away" in capsys.readouterr().err


def test_an_interrupt_says_what_goes_on(
    host: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("zeitwork.cli.waiting.time.sleep", interrupted)
    path = one(host)
    host.say(f"{path}/start", STARTING)
    assert main(["start", "web"]) == 130
    told = capsys.readouterr().err
    assert "web goes on to be running without this command" in told
    assert "zeitwork rm web" in told


def test_an_archive_that_can_not_be_opened_is_a_refusal(
    host: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "app.tar"
    with socket.socket(socket.AF_UNIX) as bound:  # not even root opens a socket as a file
        bound.bind(str(odd))
        assert main(["images", "add", str(odd)]) == 1
    assert f"source: {odd} can't be read" in capsys.readouterr().err
    assert host.bodies == []


def test_an_archive_comes_through_a_named_pipe(host: StandIn, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    host.say("/api/v1/images", {"id": "i", "source": "archive:pipe", "status": "ready"})
    writer = threading.Thread(target=pipe.write_bytes, args=(b"an archive",))
    writer.start()
    assert main(["images", "add", str(pipe)]) == 0
    writer.join(90)
    assert host.bodies == [b"an archive"]


def test_nothing_is_asked_of_the_host_before_the_archive_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            seen.append("read")
            return super().read(size)

    class Recorder(Client):
        def upload(self, path: str, content: Iterable[bytes], **params: Any) -> Any:
            del path, params
            seen.append("asked")
            return b"".join(content)

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(Slow(b"an archive")))
    assert add_image(Recorder(), "-") == b"an archive"
    assert seen.index("read") < seen.index("asked")


def test_images_alone_is_the_list_for_programs_too(host: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    host.say("/api/v1/images", page())
    assert main(["images", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["images", "--json", "ls"]) == 2


def test_followed_logs_for_programs_are_lines_as_they_come(host: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    host.say(f"{one(host)}/logs", b"one\r\ntwo \xff\n\nthree")
    assert main(["logs", "web", "--follow", "--json"]) == 0
    lines = [json.loads(line)["line"] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["one", "two \ufffd", "", "three"]


@pytest.mark.parametrize("arguments", [("ps",), ("ps", "--json")])
def test_a_reader_that_leaves_is_no_error(host: StandIn, arguments: tuple[str, ...]) -> None:
    host.say("/api/v1/instances", page(*[INSTANCE] * 2000))
    host.say("/api/v1/nodes", page())
    read, write = os.pipe()
    os.close(read)
    try:
        done = run(host, *arguments, stdout=write, stderr=subprocess.PIPE)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("count", [1, 2000])
def test_an_output_that_can_not_be_written_is_said(host: StandIn, count: int) -> None:
    host.say("/api/v1/instances", page(*[INSTANCE] * count))
    host.say("/api/v1/nodes", page())
    with Path("/dev/full").open("wb") as full:
        done = run(host, "ps", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.decode() == "error: the output could not be written: No space left on device\n"


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ((), set()),
        (("--restart", "always", "--health", "none"), set()),
        (("--restart", "always:5"), {"restart_policy"}),
        (("--restart", "never", "--health", "tcp"), {"restart_policy", "health"}),
    ],
)
def test_an_older_host_is_asked_only_for_what_somebody_wants(
    host: StandIn, arguments: tuple[str, ...], sent: set[str]
) -> None:
    host.say("/api/v1/images", {"id": "i", "source": "nginx", "status": "ready"})
    host.say("/api/v1/instances", STARTING)
    assert main(["deploy", "nginx", "--detach", *arguments]) == 0
    body = json.loads(host.bodies[-1])
    assert set(body) & {"restart_policy", "health", "snapshot_id"} == sent


def test_a_snapshot_is_waited_for(host: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    host.say(f"{one(host)}/snapshot", SNAPSHOT)
    host.say(f"/api/v1/snapshots/{SNAPSHOT['id']}", SNAPSHOT, SNAPSHOT | {"state": "ready", "size": 1 << 20})
    assert main(["snapshot", "web"]) == 0
    told = capsys.readouterr()
    assert told.out == f"{SNAPSHOT['id']}\n"
    assert "the snapshot of web is being taken" in told.err
    assert "is ready, 1 MiB" in told.err
    assert json.loads(host.bodies[-1]) == {}


def test_replacing_asks_and_waits_for_the_new_one(host: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    moving = INSTANCE | {"generation": 2, "reason": "moves off h1 as asked"}
    host.say(f"{one(host)}/replace", moving)
    assert main(["replace", "web"]) == 1
    assert "a fresh writable layer" in capsys.readouterr().err.lower()
    assert host.bodies == []
    host.say(one(host), moving, INSTANCE | {"generation": 2, "observed_generation": 2})
    assert main(["replace", "web", "--yes"]) == 0
    told = capsys.readouterr()
    assert "moves off h1 as asked" in told.err
    assert told.out.startswith("web is running")
    assert json.loads(host.bodies[-1]) == {"force": False, "confirm": True}
    assert main(["replace", "web", "--yes", "--force", "--no-wait"]) == 0
    assert json.loads(host.bodies[-1])["force"] is True


def test_replacing_what_may_run_twice_says_so(host: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    host.say("/api/v1/instances", page(INSTANCE | {"state": "unknown"}))
    assert main(["replace", "web", "--force"]) == 1
    assert "two of it may run" in capsys.readouterr().err


@pytest.mark.parametrize("state", ["failed", "deleting", "deleted"])
def test_a_snapshot_that_comes_to_nothing_is_a_failure(
    host: StandIn, capsys: pytest.CaptureFixture[str], state: str
) -> None:
    host.say(f"{one(host)}/snapshot", SNAPSHOT)
    host.say(f"/api/v1/snapshots/{SNAPSHOT['id']}", SNAPSHOT | {"state": state, "reason": "the disk is full"})
    assert main(["snapshot", "web", "--json"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert json.loads(told.err)["error"]["code"] == f"snapshot-{state}"
    assert "the disk is full" in told.err


def test_a_snapshot_that_takes_too_long_goes_on(host: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    host.say(f"{one(host)}/snapshot", SNAPSHOT)
    host.say(f"/api/v1/snapshots/{SNAPSHOT['id']}", SNAPSHOT)
    assert main(["snapshot", "web", "--timeout", "1"]) == 1
    assert "it goes on by itself" in capsys.readouterr().err
    assert main(["snapshot", "web", "--no-wait"]) == 0
    assert capsys.readouterr().out == f"{SNAPSHOT['id']}\n"


def test_an_interrupt_says_how_to_give_a_snapshot_up(
    host: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("zeitwork.cli.waiting.time.sleep", interrupted)
    host.say(f"{one(host)}/snapshot", SNAPSHOT)
    assert main(["snapshot", "web"]) == 130
    assert f"zeitwork snapshots rm {SNAPSHOT['id']}" in capsys.readouterr().err


def test_a_label_that_several_have_is_refused(host: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    host.say("/api/v1/snapshots", page(SNAPSHOT, SNAPSHOT | {"id": "0198c4f2-0000-7000-8000-00000000000b"}))
    assert main(["snapshots", "rm", "before"]) == 1
    assert "2 snapshots are called 'before'" in capsys.readouterr().err
    assert main(["restore", "before"]) == 1
    assert host.bodies == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("restore", "before", "--name", "a", "--into", "b"),
        ("restore", "before", "--yes"),
        ("snapshots", "--json", "rm", "x"),
    ],
)
def test_options_that_contradict_each_other_are_wrong_usage(
    host: StandIn, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert main([*arguments]) == 2
    assert "error" in capsys.readouterr().err.lower()
    assert host.bodies == []


@pytest.mark.parametrize("command", ["pause", "resume", "snapshot", "snapshots", "restore", "replace"])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    told = capsys.readouterr().out
    assert "Examples:" in told
    assert f"zeitwork {command}" in told
    assert "--json" in told


def test_a_host_looks_names_up_by_threads_of_their_own() -> None:
    found: list[object] = []

    async def look() -> None:
        found.append(trio.socket.set_custom_hostname_resolver(None))
        trio.socket.set_custom_hostname_resolver(found[0])  # type: ignore[arg-type]
        with trio.fail_after(90):
            assert await trio.socket.getaddrinfo("localhost", 80)
            assert await trio.socket.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)

    _run_trio(look)
    assert isinstance(found[0], Names)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["--http", "nowhere"], "http"),
        (["--config", "/no/such/file.toml"], "config"),
        (["--vcpu-overcommit", "many"], "vcpu_overcommit"),
    ],
)
def test_a_wrong_setting_is_told_apart_for_whoever_would_start_a_host_again(
    arguments: list[str], field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *arguments]) == 2
    assert field in capsys.readouterr().err


def test_wrong_usage_is_told_to_programs_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "web", "--source", "foo", "--json"]) == 2
    error = json.loads(capsys.readouterr().err)["error"]
    assert (error["code"], error["field"], error["fix"]) == ("usage", "--source", "zeitwork logs --help")
    assert main(["deploy", "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["field"] == "SOURCE"
    assert main(["ps", "--bogus", "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["field"] == "--bogus"
    # What comes behind -- is for the command there.
    assert main(["exec", "--bogus", "web", "--", "ls", "--json"]) == 2
    assert capsys.readouterr().err.startswith("Usage:")


@pytest.mark.parametrize(("name", "more"), [("BAD_", ()), ("n" * 59, ("--replicas", "2"))])
def test_a_name_that_nothing_may_have_is_refused_before_its_image_is_fetched(
    host: StandIn, capsys: pytest.CaptureFixture[str], name: str, more: tuple[str, ...]
) -> None:
    # The stand-in has no answer to a request for an image.
    assert main(["deploy", "web:1", "--name", name, *more]) == 1
    said = capsys.readouterr().err
    assert f"--name: {name!r} is not a name of 1 to" in said
    assert "for example web-1" in said


@pytest.mark.parametrize("command", [("rm", "web", "--yes"), ("stop", "web")])
def test_an_end_on_a_host_that_dies_meanwhile_is_not_waited_for(
    host: StandIn, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    node = "0198c4f2-0000-7000-8000-0000000000aa"
    ends = INSTANCE | {"node_id": node, "desired_state": "stopped" if command[0] == "stop" else "terminated"}
    path = one(host)
    host.say(f"{path}/stop" if command[0] == "stop" else path, ends, ends | {"reason": "its host h3 is down"})
    if command[0] == "stop":
        host.say(path, ends)
    host.say(f"/api/v1/nodes/{node}", {"state": "down"})
    assert main([*command]) == 0
    out = capsys.readouterr().out
    assert out == "web is running: its host h3 is down\n", "no addresses: it is not to answer there"


def test_what_was_asked_of_an_instance_is_in_the_list_while_it_waits(
    host: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    host.say("/api/v1/instances", page(INSTANCE | {"desired_state": "terminated", "state": "running"}))
    host.say("/api/v1/nodes", page())
    assert main(["ps"]) == 0
    assert "is to be removed" in capsys.readouterr().out


def test_events_of_what_was_removed_are_found(host: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    host.say("/api/v1/instances", page(), page(INSTANCE))
    host.say("/api/v1/groups", page())
    host.say(f"/api/v1/instances/{INSTANCE['id']}/events", page())
    assert main(["events", "web", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
