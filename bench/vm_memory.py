"""What does each machine cost in memory, beside its guest's own: in our process, and in its monitor?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from uuid import UUID

from actors.resource_monitor.messages import Monitor
from actors.resource_monitor.processes import read_overheads
from bench import _published
from bench._fleet import MEMORY, add_image, launch, placement
from bench._host import memory_of
from bench._minimal import a_minimal_host, missing
from bench.question import Answer, Question

COUNT = 200
#: Seconds after the last start: what was needed for that only is given back.
SETTLE = 15.0
#: Of so many machines DESIGN's target speaks, and so many MiB it allows the host process.
_MANY, _ALLOWED = 1000, 150


def ask(quick: bool) -> Iterator[Answer]:
    """Measure each; KiB."""
    if reason := missing():
        yield Answer("host process, each machine", None, reason)
        return
    count = 4 if quick else COUNT
    with a_minimal_host() as host:
        host.start()
        image = add_image(host)
        # What a first one loads, and what a wave of starts takes for a moment, is no machine's.
        launch(host, image, min(count, 50))
        host.clear()
        time.sleep(0.5 if quick else SETTLE)
        before, _ = memory_of(host.pid)
        fleet = launch(host, image, count)
        time.sleep(0.5 if quick else SETTLE)
        after, _ = memory_of(host.pid)
        pids = [placement(host, instance)["pid"] for instance in fleet.instances[:20]]
        monitors = [Monitor(UUID(int=number), pid, MEMORY, "firecracker") for number, pid in enumerate(pids)]
        overheads = sorted(read_overheads(monitors).values())
    each = max(1.0, (after - before) * 1024 / count)
    yield Answer("host process, each machine", each, f"{count} of them, idle; resident")
    if overheads:
        largest = f"the largest of {len(overheads)}; proportional, page tables and kernel memory included"
        yield Answer("Firecracker beside its guest, each machine", float(overheads[-1]), largest, apart=True)
    yield _published.overhead()
    yield Answer("host process without a machine, MiB", before, "resident", apart=True)
    yield Answer(
        f"host process with {_MANY}, MiB", before + each * _MANY / 1024,
        f"reckoned from {count}; target {_ALLOWED}", apart=True,
    )  # fmt: skip


QUESTION = Question("vm_memory", "memory of each idle machine, Firecracker", "KiB", "lower", ask)
