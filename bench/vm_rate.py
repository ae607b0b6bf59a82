"""How many machines a second does one host start, when 200 are asked for at once?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from bench import _published
from bench._bare import machines
from bench._fleet import CLIENTS, add_image, launch, together
from bench._host import cpu_of
from bench._minimal import a_minimal_host, jailer, missing
from bench.question import Answer, Question

COUNT = 200
#: Seconds in which an idle host is watched.
IDLE = 20.0


def ask(quick: bool) -> Iterator[Answer]:
    """Measure each; machines a second."""
    if reason := missing():
        yield Answer("machines a second", None, reason)
        return
    count = 4 if quick else COUNT
    with a_minimal_host() as host:
        host.start()
        image = add_image(host)
        launch(host, image, 1)
        host.clear()
        used = cpu_of(host.pid)
        fleet = launch(host, image, count)
        used = cpu_of(host.pid) - used
        time.sleep(1 if quick else IDLE / 2)
        before = cpu_of(host.pid)
        time.sleep(1 if quick else IDLE)
        idle = (cpu_of(host.pid) - before) / (1 if quick else IDLE)
        began = time.monotonic()
        host.clear()
        cleared = time.monotonic() - began
    with machines(count) as bare:
        began = time.monotonic()
        together([partial(machine.start) for machine in bare])
        alone = count / (time.monotonic() - began)
    jailed = "in jails" if jailer() else "without jails"
    yield Answer(f"{count} at once, started a second", count / fleet.seconds, f"{CLIENTS} clients; {jailed}")
    yield Answer("Firecracker alone, 4 at once", alone, "TAP, process, requests, start")
    yield _published.rate()
    yield Answer("removed a second", count / cleared, "by force, all asked at once", apart=True)
    yield Answer("CPU of the host process for each start, ms", used / count * 1000, "its database's not included", True)
    yield Answer(f"CPU of the host process with {count} idle, %", idle * 100, "of one CPU", apart=True)


QUESTION = Question("vm_rate", "machines started on one host, Firecracker", "1/s", "higher", ask)
