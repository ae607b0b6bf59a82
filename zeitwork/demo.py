"""``zeitwork demo``: a host with a data directory of its own, one app in a real VM, one address; then nothing left."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import trio

from actors.model.errors import Conflict, Failed
from zeitwork.cli.client import Client
from zeitwork.cli.output import Progress
from zeitwork.cli.sources import add_image
from zeitwork.cli.waiting import wait_for_image, wait_for_state
from zeitwork.config import DEFAULT_DATA_DIR, Config
from zeitwork.tree import RunningHost, open_host

DEMO_DATA_DIR = Path("/var/lib/zeitwork-demo")
#: Only a directory that has this file, or is empty, is ever deleted.
MARKER = ".zeitwork-demo"
#: Seconds for the parts of the demo. A software-translated guest on a busy machine boots in tens of seconds.
IMAGE_DEADLINE, BOOT_DEADLINE, HTTP_DEADLINE, REMOVE_DEADLINE = 120.0, 240.0, 60.0, 60.0


@dataclass(slots=True)
class Summary:
    """What ``--once`` prints. ``seconds`` holds each step's duration in the order they were taken."""

    ok: bool = False
    url: str | None = None
    urls: list[str] = field(default_factory=list)
    hypervisor: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the document, without an ``error`` when there was none."""
        body = {
            "ok": self.ok,
            "url": self.url,
            "urls": self.urls,
            "hypervisor": self.hypervisor,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }
        return body | ({"error": self.error} if self.error else {})


class Stopwatch:
    """Writes down how long each step took."""

    def __init__(self, summary: Summary) -> None:
        self._summary = summary
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """End the step ``name``."""
        now = time.monotonic()
        self._summary.seconds[name] = now - self._last
        self._last = now


def demo_config(config: Config) -> Config:
    """Return the configuration of the demo's host: its own data, setup's assets, an HTTP port that is free."""
    if config.data_dir == DEFAULT_DATA_DIR:
        config = replace(config, data_dir=DEMO_DATA_DIR)
    if config.assets_dir is None:
        config = replace(config, assets_dir=DEFAULT_DATA_DIR)
    return replace(config, http=_free_http(config.http))


def _free_http(http: str) -> str:
    """Return ``http``, or the same host with port 0 when another process (a real host, perhaps) listens there."""
    host, _, port = http.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError:
            return f"{host}:0"
    return http


def claim(data_dir: Path) -> None:
    """Make ``data_dir`` the demo's to delete. Raises `Conflict` for a directory that holds anything else."""
    marker = data_dir / MARKER
    if data_dir.exists() and not marker.exists() and any(data_dir.iterdir()):
        raise Conflict(
            f"{data_dir} holds something, and the demo deletes its data directory at the end",
            field="data_dir",
            fix="give --data-dir a directory that does not exist yet",
        )
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
    marker.touch()


async def run_demo(config: Config, summary: Summary, progress: Progress, stay: Callable[[Summary], Any] | None) -> None:
    """Bring the demo up, call ``stay`` (None: do not stay), and take everything down however this ends.

    Raises `Problem` when it could not be brought up; ``summary`` then holds how far it came. Should taking down
    fail, the data directory stays, because what runs can only be found with it; the next demo goes on from there.
    """
    watch = Stopwatch(summary)
    claim(config.data_dir)
    placements = config.paths.placements
    clean = not (placements.is_dir() and any(placements.iterdir()))
    try:
        progress.show("starting a host")
        async with open_host(config) as host:
            watch.lap("host")
            progress.show("finding out what runs VMs here")
            summary.hypervisor = await host.hypervisor()
            watch.lap("hypervisor")
            try:
                clean = False
                await _bring_up(host, config, summary, progress, watch)
                progress.done()
                if stay is not None:
                    await stay(summary)
            finally:
                progress.show("taking everything down")
                with trio.CancelScope(shield=True, deadline=trio.current_time() + REMOVE_DEADLINE + 10):
                    await _in_thread(_remove_instances, host)
                    clean = True
                if stay is None:
                    watch.lap("stop")
    finally:
        progress.done()
        # Only after the host has let go, and only when no VM of it is left.
        if clean:
            shutil.rmtree(config.data_dir, ignore_errors=True)
            shutil.rmtree(config.paths.run, ignore_errors=True)


async def _bring_up(host: RunningHost, config: Config, summary: Summary, progress: Progress, watch: Stopwatch) -> None:
    # What an earlier demo left when it was killed is this one's to clear: its VMs were adopted a moment ago.
    await _in_thread(_remove_instances, host)
    instance = await _in_thread(_deploy, host, config, progress, watch)
    port = instance["default_port"]
    if instance.get("ipv6"):
        summary.urls.append(f"http://[{instance['ipv6']}]:{port}")
    if instance.get("ipv4"):
        summary.urls.append(f"http://{instance['ipv4']}:{port}")
    progress.show("waiting for HTTP 200")
    for url in summary.urls:
        await _answers(url)
    watch.lap("http")
    summary.url = summary.urls[0]
    summary.ok = True


async def _in_thread(function: Callable[..., Any], *args: Any) -> Any:
    # Given up on cancel: these threads only ask and wait, and their requests end by themselves.
    return await trio.to_thread.run_sync(function, *args, abandon_on_cancel=True)


def _deploy(host: RunningHost, config: Config, progress: Progress, watch: Stopwatch) -> Any:
    client = Client(host.socket)
    try:
        if not config.paths.hello.is_file():
            raise Failed("the hello app is not there", fix="zeitwork setup", code="setup-needed")
        image = add_image(client, str(config.paths.hello))
        image = wait_for_image(client, image, progress, time.monotonic() + IMAGE_DEADLINE)
        watch.lap("image")
        body = {
            "name": "hello",
            "image_id": image["id"],
            "default_port": 8080,
            "resources": {"vcpu": 1, "memory": 128, "disk": 64},
        }
        instance = client.post("/api/v1/instances", body)
        instance = wait_for_state(client, instance, {"running"}, progress, time.monotonic() + BOOT_DEADLINE)
        watch.lap("boot")
        return instance
    finally:
        client.close()


def _remove_instances(host: RunningHost) -> None:
    client = Client(host.socket)
    deadline = time.monotonic() + REMOVE_DEADLINE
    try:
        for instance in list(client.pages("/api/v1/instances")):
            gone = client.delete(f"/api/v1/instances/{instance['id']}", confirm="true")
            wait_for_state(client, gone, {"terminated"}, Progress(quiet=True), deadline)
    finally:
        client.close()


async def _answers(url: str) -> None:
    """Return once ``url`` answers 200. Raises `Failed` with what it answered last."""
    last = "nothing"
    with trio.move_on_after(HTTP_DEADLINE):
        async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
            while True:
                try:
                    response = await http.get(url)
                except httpx.HTTPError as error:
                    last = str(error) or type(error).__name__
                else:
                    if response.status_code == 200:
                        return
                    last = f"status {response.status_code}"
                await trio.sleep(0.05)
    raise Failed(f"{url} did not answer 200 within {HTTP_DEADLINE:.0f} s; last: {last}", fix="zeitwork doctor")


def say_where(summary: Summary) -> str:
    """Return the sentences that ``demo`` shows while it stays."""
    assert summary.url is not None
    port = summary.url.rsplit(":", 1)[1]
    host = summary.url.removeprefix("http://").rsplit(":", 1)[0]
    others = "".join(f"\n  and at        {url}" for url in summary.urls[1:])
    return (
        f"The hello app runs in a real VM ({summary.hypervisor}) and answers\n"
        f"  at            {summary.url}{others}\n"
        f"From your own machine:\n"
        f"  ssh -L {port}:{host}:{port} root@{socket.gethostname()}   then open http://localhost:{port}\n"
        f"Ctrl-C removes everything."
    )
