"""Servers on loopback: Debian's real registry, and small ones that misbehave on purpose."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.actors.images.craft import Image, write_layout

#: htpasswd line of user `someone` with password `secret`.
HTPASSWD = "someone:$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n"  # gitleaks:allow


@asynccontextmanager
async def registry(where: Path, auth: str = "") -> AsyncIterator[str]:
    """Run docker-registry on a port of its choice; yield ``127.0.0.1:port``. ``auth`` is YAML for its configuration."""
    for program in ("docker-registry", "skopeo"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    log = where / "registry.log"
    process = _start(where, log, auth)
    try:
        with trio.fail_after(90):
            while not (match := re.search(r"listening on (127\.0\.0\.1:\d+)(?=\D)", log.read_text())):
                assert process.poll() is None, log.read_text()
                await trio.sleep(0.02)
        yield match[1]
    finally:
        process.kill()
        process.wait(90)


def _start(where: Path, log: Path, auth: str) -> subprocess.Popen[bytes]:
    where.mkdir(parents=True, exist_ok=True)
    config = where / "registry.yml"
    config.write_text(
        "version: 0.1\nlog: {level: info}\n"
        f"storage: {{filesystem: {{rootdirectory: {where}/storage}}}}\n"
        'http: {addr: "127.0.0.1:0"}\n' + auth
    )
    with log.open("wb") as out:
        return subprocess.Popen(["docker-registry", "serve", str(config)], stdout=out, stderr=out)


async def push(host: str, name: str, where: Path, *images: Image, credentials: str = "") -> None:
    """Push an image (several: an index of their platforms) with skopeo, as a person would."""
    source = write_layout(where / name.replace("/", "_").replace(":", "_"), *images)
    command = ["skopeo", "copy", "--insecure-policy", "--dest-tls-verify=false", "--preserve-digests"]
    command += ["--all"] if len(images) > 1 else []
    command += ["--dest-creds", credentials] if credentials else []
    with trio.fail_after(120):
        done = await trio.run_process(
            [*command, f"oci:{source}", f"docker://{host}/{name}"],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr.decode()


@dataclass
class Asked:
    """A request that came in; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]


@dataclass
class Answer:
    """What to send; after ``cut`` bytes of the body the connection is closed. ``hang`` sends no more, for ever."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    hang: bool = False


@dataclass
class Fake:
    """A running fake: where it listens, and what it was asked."""

    host: str
    asked: list[Asked] = field(default_factory=list)


@asynccontextmanager
async def fake(handler: Callable[[Asked], Answer]) -> AsyncIterator[Fake]:
    """Serve HTTP on loopback, one request a connection."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        here = Fake(f"127.0.0.1:{listeners[0].socket.getsockname()[1]}")
        nursery.start_soon(trio.serve_listeners, partial(_serve, handler, here), listeners)
        yield here
        nursery.cancel_scope.cancel()


async def _serve(handler: Callable[[Asked], Answer], here: Fake, stream: trio.SocketStream) -> None:
    data = b""
    try:
        async with stream:
            while b"\r\n\r\n" not in data:
                more = await stream.receive_some()
                if not more:
                    return
                data += more
            first, *lines = data.split(b"\r\n\r\n")[0].decode().split("\r\n")
            method, target, _ = first.split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            asked = Asked(method, target, headers)
            here.asked.append(asked)
            answer = handler(asked)
            fields = {"Content-Length": str(len(answer.body)), "Connection": "close", **answer.headers}
            head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            body = answer.body if answer.cut is None else answer.body[: answer.cut]
            await stream.send_all(f"HTTP/1.1 {answer.status} X\r\n{head}\r\n".encode() + body)
            if answer.hang:
                await trio.sleep_forever()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return


@dataclass
class Cutter:
    """A proxy before a server that ends connections after ``after`` bytes, ``times`` times."""

    target: str
    after: int
    times: int
    host: str = ""
    requests: bytes = b""


@asynccontextmanager
async def cutter(target: str, after: int, times: int) -> AsyncIterator[Cutter]:
    """Run a TCP proxy that breaks off answers."""
    here = Cutter(target, after, times)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        here.host = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.start_soon(trio.serve_listeners, partial(_relay, here), listeners)
        yield here
        nursery.cancel_scope.cancel()


async def _relay(here: Cutter, client: trio.SocketStream) -> None:
    name, _, port = here.target.partition(":")
    server = await trio.open_tcp_stream(name, int(port))
    sent = 0

    async def up() -> None:
        async for data in client:
            here.requests += data
            await server.send_all(data)

    async def down() -> None:
        nonlocal sent
        async for data in server:
            piece = data
            if here.times and sent + len(data) > here.after:
                piece = data[: here.after - sent]
            await client.send_all(piece)
            sent += len(piece)
            if len(piece) < len(data):
                here.times -= 1
                nursery.cancel_scope.cancel()
                return

    try:
        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(up)
            nursery.start_soon(down)
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
