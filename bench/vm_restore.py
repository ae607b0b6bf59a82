"""How long from an accepted restore until the guest goes on and answers? A Linux guest with its agent and an app.

Until the process is started all is the host's. Then the state is loaded, and the guest is told who it is now and
answers for itself: on a machine whose KVM emulates guest kernels that says nothing about others, and gets no ratio.
"""

from __future__ import annotations

import http.client
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench import _published
from bench._bare import machines
from bench._fleet import add_image, at, create, first, lines, placement
from bench._host import Host, a_host, until
from bench._minimal import binary, emulated, jailer
from bench._minimal import missing as missing_for_minimal
from bench.question import Answer, Question

TIMES = 10
_RESOURCES = {"vcpu": 1, "memory": 128, "disk": 64}


def missing() -> str | None:
    """Say why it can't be measured here, None when it can."""
    if reason := missing_for_minimal():
        return reason
    if emulated() and not _kernel():
        return "KVM emulates guest kernels here, and ZEITWORK_TEST_KERNEL names none that can stand it"
    return None


def ask(quick: bool) -> Iterator[Answer]:
    """Measure each; milliseconds."""
    if reason := missing():
        yield Answer("restore accepted to the process started", None, reason)
        return
    times = 2 if quick else TIMES
    with _host() as host:
        host.start()
        image = add_image(host)
        instance, _ = create(host, image, resources=_RESOURCES)
        until(lambda: _state(host, "instances", instance) == "running", "the first guest", 120, 0.1)
        # Asked seldom: each refusal costs a guest whose kernel is emulated a good part of the time in between.
        until(partial(_serves, placement(host, instance)["ipv4"]), "the app", 120, 1.0)
        began = time.monotonic()
        snapshot = host.ask("POST", f"/api/v1/instances/{instance}/snapshot", {})["id"]
        until(lambda: _state(host, "snapshots", snapshot) == "ready", "the snapshot", 120, 0.02)
        taken = (time.monotonic() - began) * 1000
        ours = [_one(host, snapshot) for _ in range(times)]
    with machines(1) as (bare,):
        bare.start()
        time.sleep(0.2)
        bare.save()
        theirs = []
        for _ in range(times):
            theirs.append(bare.restore())
            bare.kill()
    process, going, answered = (statistics.median(values) for values in zip(*ours, strict=True))
    kind = "Linux with agent and app" + (", in a jail" if jailer() else ", without a jail")
    yield Answer("restore accepted to the process started, p50", process, f"all our own; {kind}")
    yield Answer(
        "Firecracker alone: process, load, go on", statistics.median(theirs), "the minimal guest, its TAP kept"
    )
    told = f"state loaded, identity, clock and entropy told to its agent{_published.here()}"
    yield Answer("then until the guest goes on", going - process, told, apart=True)
    yield Answer("then until HTTP 200", answered - going, f"the guest's part{_published.here()}", apart=True)
    yield Answer("a snapshot, asked for to ready", taken, "128 MiB, frozen, durable", apart=True)


def _kernel() -> str | None:
    value = os.environ.get("ZEITWORK_TEST_KERNEL")
    return value if value and Path(value).is_file() else None


@contextmanager
def _host() -> Iterator[Host]:
    kernel = _kernel()
    own = ["--kernel", kernel] if kernel and emulated() else []
    jails = ["--jailer", str(jailer() or "off")]
    with a_host("--hypervisor", "firecracker", "--firecracker", str(binary()), *jails, *own) as host:
        yield host


def _state(host: Host, kind: str, identifier: str) -> str:
    found = host.ask("GET", f"/api/v1/{kind}/{identifier}")
    if found["state"] == "failed":
        raise RuntimeError(f"failed: {found['reason']}")
    return str(found["state"])


def _one(host: Host, snapshot: str) -> tuple[float, float, float]:
    """Return the milliseconds from the answered request to the process, the guest that goes on, and HTTP 200."""
    begin = len(host.events())
    status, made, request = host.call("POST", "/api/v1/instances", {"snapshot_id": snapshot})
    if status != 201:
        raise RuntimeError(f"a restore was refused: {status} {made}")
    accepted = first(host, begin, "request", request_id=request)
    going = first(host, begin, "machine started")
    process = at(lines(host, begin, "monitor started")[0])
    address = placement(host, made["id"])["ipv4"]
    until(lambda: _serves(address), "HTTP 200", 60, 0.05)
    answered = time.time()
    host.ask("DELETE", f"/api/v1/instances/{made['id']}?confirm=true&force=true")
    until(lambda: made["id"] not in {item["id"] for item in host.every("instances")}, "its end", 60, 0.05)
    return (process - accepted) * 1000, (going - accepted) * 1000, (answered - accepted) * 1000


def _serves(address: str) -> bool:
    connection = http.client.HTTPConnection(address, 8080, timeout=2)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


QUESTION = Question("vm_restore", "restore to the process and the guest going on, Firecracker", "ms", "lower", ask)
