"""How long from an accepted create until the hypervisor's process is started? That time is all our own.

The answer to the request and the start of the process both leave a line in the host's log, with microseconds, by the
same clock: nothing is polled. What a guest waits because others boot first is not counted (where guests are translated
in software, only as many boot at once as there are cores).
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bench._host import Host, a_host, assets, cpu_of, missing
from bench.question import Answer, Question

ALONE, TOGETHER = 20, 8
AT_ONCE = 4


@dataclass(slots=True)
class _Samples:
    """Milliseconds of each create: all of it, the TAP's share, and the wait for other guests' boots."""

    total: list[float] = field(default_factory=list)
    tap: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)


def ask(quick: bool) -> Iterator[Answer]:
    """Measure each; milliseconds."""
    reason = missing()
    if reason is not None:
        yield Answer("one at a time, p50", None, reason)
        return
    place = assets()
    assert place is not None
    with a_host() as host:
        host.start()
        image = host.cli("images", "add", str(place / "hello.tar"))["id"]
        _create(host, image, 1, _Samples())  # the first one makes what the next ones find
        alone, together = _Samples(), _Samples()
        before = cpu_of(host.pid)
        for _ in range(2 if quick else ALONE):
            _create(host, image, 1, alone)
        cpu = (cpu_of(host.pid) - before) * 1000 / len(alone.total)
        for _ in range(1 if quick else TOGETHER):
            _create(host, image, AT_ONCE, together)
    yield Answer("one at a time, p50", statistics.median(alone.total), "201 answered to process started")
    yield Answer("one at a time, p99", _p99(alone.total), f"{len(alone.total)} of them")
    yield Answer("of that the TAP, p50", statistics.median(alone.tap), "device, addresses, routes, rules")
    yield Answer("CPU time of the host process", cpu, "for each, its removal and our looks included")
    yield Answer(f"{AT_ONCE} at once, p50", statistics.median(together.total), f"waits for {_waits(together)}")
    yield Answer(f"{AT_ONCE} at once, p99", _p99(together.total), f"{len(together.total)} of them; target 100")
    yield Answer("of that the TAP, p50", statistics.median(together.tap))


def _waits(samples: _Samples) -> str:
    waited = sum(1 for wait in samples.waited if wait)
    return f"other guests' boots left out: {waited} of {len(samples.waited)} waited"


def _p99(values: list[float]) -> float:
    return sorted(values)[max(0, -(-len(values) * 99 // 100) - 1)]


def _create(host: Host, image: str, count: int, samples: _Samples) -> None:
    """Create that many at once, note what each took, and leave nothing."""
    body = {"image_id": image, "resources": {"vcpu": 1, "memory": 128, "disk": 64}, "default_port": 8080}
    begin = len(host.events())
    requests: dict[str, str] = {}  # instance -> request

    def post() -> None:
        status, made, request = host.call("POST", "/api/v1/instances", body)
        if status == 201:
            requests[made["id"]] = request

    threads = [threading.Thread(target=post) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(requests) != count:
        raise RuntimeError("an instance was refused")
    # Each is removed once it runs: its guest's boot would take the CPU from the next one's start.
    placements: dict[str, str] = {}
    deadline = time.monotonic() + 120
    while len(placements) < count:
        if time.monotonic() > deadline:
            raise TimeoutError("no process was started")
        time.sleep(0.005)
        started = {line["placement"] for line in _lines(host, begin, "monitor started")}
        if len(started) <= len(placements):
            continue
        for instance in requests.keys() - placements.keys():
            items = host.ask("GET", f"/api/v1/instances/{instance}/placements")["items"]
            if items and items[-1]["id"] in started:
                placements[instance] = items[-1]["id"]
                host.ask("DELETE", f"/api/v1/instances/{instance}?confirm=true&force=true")
    host.wait_for_none()
    answered = {line["request_id"]: _at(line) for line in _lines(host, begin, "request")}
    started_at = {line["placement"]: _at(line) for line in _lines(host, begin, "monitor started")}
    waited = {line["placement"]: float(line["waited_ms"]) for line in _lines(host, begin, "other guests booted first")}
    for instance, request in requests.items():
        wait = waited.get(placements[instance], 0.0)
        samples.total.append((started_at[placements[instance]] - answered[request]) * 1000 - wait)
        samples.waited.append(wait)
    samples.tap += [float(line["ms"]) for line in _lines(host, begin, "tap up")]


def _lines(host: Host, begin: int, event: str) -> list[dict[str, Any]]:
    return [line for line in host.events()[begin:] if line.get("event") == event]


def _at(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["timestamp"]).timestamp()


QUESTION = Question("host_create", "create to the hypervisor's start", "ms", "lower", ask, target=25)
