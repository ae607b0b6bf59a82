"""How long from an accepted create until Firecracker was told to start the guest? All of it is the host's side.

In a jail, with cgroup, limits, disk, TAP, rules, database and all, beside the least that a start can do: a TAP, a
process, three requests. The minimal guest is started, so that nothing waits for a guest.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench import _published
from bench._bare import machines
from bench._fleet import add_image, create, first, middle, placement
from bench._host import Host
from bench._minimal import a_minimal_host, answers, jailer, missing
from bench.question import Answer, Question

TIMES = 20


def ask(quick: bool) -> Iterator[Answer]:
    """Measure each; milliseconds."""
    if reason := missing():
        yield Answer("create accepted to InstanceStart answered", None, reason)
        return
    times = 2 if quick else TIMES
    with a_minimal_host() as host:
        host.start()
        image = add_image(host)
        _one(host, image)  # the first one makes what the next ones find
        ours = [_one(host, image) for _ in range(times)]
    with machines(times) as bare:
        theirs = [machine.start() for machine in bare]
        answer = all(answers(str(machine.lease.v4), 10) for machine in bare[:1])
    jailed = "in a jail" if jailer() else "without a jail, as there is no jailer"
    yield Answer("create accepted to InstanceStart answered, p50", middle(one[1] for one in ours), jailed)
    yield Answer("  of that until the process is started", middle(one[0] for one in ours), "all our own")
    yield Answer(
        "  then until InstanceStart is answered",
        middle(one[1] - one[0] for one in ours),
        "jailer, whole configuration, start",
    )
    yield Answer(
        "Firecracker alone: TAP, process, requests, start", middle(one.all for one in theirs),
        f"no jail, cgroup, disk, rules, database; its guest {'answered' if answer else 'DID NOT ANSWER'}",
    )  # fmt: skip
    yield Answer("  of that the TAP", middle(one.tap for one in theirs), "device, address, route, neighbour")
    yield Answer("  the process until it listens", middle(one.process for one in theirs))
    yield _published.process()
    yield _published.boot()


def _one(host: Host, image: str) -> tuple[float, float]:
    """Return the milliseconds from the answered request to the process and to its answered start."""
    begin = len(host.events())
    instance, request = create(host, image)
    accepted = first(host, begin, "request", request_id=request)
    started = first(host, begin, "machine started")
    process = first(host, begin, "monitor started")
    address = placement(host, instance)["ipv4"]
    if not answers(address, 90):
        raise TimeoutError(f"the guest at {address} does not answer")
    host.ask("DELETE", f"/api/v1/instances/{instance}?confirm=true&force=true")
    host.wait_for_none()
    return (process - accepted) * 1000, (started - accepted) * 1000


QUESTION = Question("vm_start", "create to the guest's start, Firecracker", "ms", "lower", ask)
