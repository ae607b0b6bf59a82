"""How long from an accepted stop until nothing of the machine is left, its end written in the database?"""

from __future__ import annotations

from collections.abc import Iterator

from bench._bare import machines
from bench._fleet import add_image, create, first, middle
from bench._host import Host
from bench._minimal import a_minimal_host, answers, missing
from bench.question import Answer, Question

TIMES = 20


def ask(quick: bool) -> Iterator[Answer]:
    """Measure each; milliseconds."""
    if reason := missing():
        yield Answer("delete accepted to nothing left", None, reason)
        return
    times = 2 if quick else TIMES
    with a_minimal_host() as host:
        host.start()
        image = add_image(host)
        _one(host, image)
        ours = [_one(host, image) for _ in range(times)]
    with machines(times) as bare:
        theirs = []
        for machine in bare:
            machine.start()
            # Before that it would not heed the request.
            if not answers(str(machine.lease.v4), 90):
                raise TimeoutError(f"the guest at {machine.lease.v4} does not answer")
            theirs.append(machine.stop())
    yield Answer("delete accepted to nothing left, p50", middle(one[1] for one in ours), "and that written")
    yield Answer("  of that until the process has ended", middle(one[0] for one in ours), "mostly guest and monitor")
    yield Answer("  then until all it held is gone", middle(one[1] - one[0] for one in ours), "half of it the TAP's")
    yield Answer("Firecracker alone: Ctrl-Alt-Del, end, TAP", middle(theirs), "the same guest")


def _one(host: Host, image: str) -> tuple[float, float]:
    """Return the milliseconds from the answered request to the process's end and to the last word."""
    begin = len(host.events())
    instance, _ = create(host, image)
    first(host, begin, "machine is running")
    begin = len(host.events())
    _, _, request = host.call("DELETE", f"/api/v1/instances/{instance}?confirm=true")
    removed = first(host, begin, "machine is removed")
    accepted = first(host, begin, "request", request_id=request)
    ended = first(host, begin, "machine is cleaning")
    host.wait_for_none()
    return (ended - accepted) * 1000, (removed - accepted) * 1000


QUESTION = Question("vm_stop", "delete to nothing left, Firecracker", "ms", "lower", ask)
