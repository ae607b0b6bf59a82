"""Many machines of one host: made through its endpoint, timed by its log. Nothing is polled that costs the host."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bench._host import Host, assets, until

#: MiB of a machine: the least that can be asked for is enough for the minimal guest.
MEMORY, DISK = 64, 32
#: Clients that create at once.
CLIENTS = 8


@dataclass(frozen=True, slots=True)
class Fleet:
    """Instances by id, and the seconds from the first request until the last one's guest runs."""

    instances: list[str]
    seconds: float


def add_image(host: Host) -> str:
    """Give the host an image; return its id."""
    place = assets()
    assert place is not None
    return str(host.cli("images", "add", str(place / "hello.tar"))["id"])


def create(host: Host, image: str, **more: Any) -> tuple[str, str]:
    """Create an instance; return its id and that of the request."""
    body = {"image_id": image, "resources": {"vcpu": 1, "memory": MEMORY, "disk": DISK}, "default_port": 8080, **more}
    status, made, request = host.call("POST", "/api/v1/instances", body)
    if status != 201:
        raise RuntimeError(f"an instance was refused: {status} {made}")
    return str(made["id"]), request


def launch(host: Host, image: str, count: int, seconds: float = 300) -> Fleet:
    """Create so many instances as fast as they are taken, and wait until all of them run."""
    begin = len(host.events())
    began = time.time()
    with ThreadPoolExecutor(CLIENTS) as clients:
        instances = [made for made, _ in clients.map(lambda _: create(host, image), range(count))]
    until(lambda: len(lines(host, begin, "machine is running")) >= count, f"{count} machines", seconds, 0.05)
    return Fleet(instances, max(at(line) for line in lines(host, begin, "machine is running")) - began)


def placement(host: Host, instance: str) -> dict[str, Any]:
    """Return an instance's newest placement."""
    found: dict[str, Any] = host.ask("GET", f"/api/v1/instances/{instance}/placements")["items"][-1]
    return found


def lines(host: Host, begin: int, event: str) -> list[dict[str, Any]]:
    """Return the lines of the host's log that tell of ``event``, from the one numbered ``begin`` on."""
    return [line for line in host.events()[begin:] if line.get("event") == event]


def at(line: dict[str, Any]) -> float:
    """Return when a line was written, in Unix seconds."""
    return datetime.fromisoformat(line["timestamp"]).timestamp()


def first(host: Host, begin: int, event: str, **fields: str) -> float:
    """Return when ``event`` was first told since ``begin`` with these fields; waited for."""

    def found() -> list[dict[str, Any]]:
        return [line for line in lines(host, begin, event) if fields.items() <= line.items()]

    return at(until(found, event, 60, 0.002)[0])


def middle(values: Iterable[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def together(work: Iterable[Any], threads: int = 4) -> None:
    """Call each of ``work``, that many at once."""
    todo = iter(list(work))
    lock = threading.Lock()

    def run() -> None:
        while True:
            with lock:
                one = next(todo, None)
            if one is None:
                return
            one()

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
