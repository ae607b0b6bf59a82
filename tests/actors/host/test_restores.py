"""Snapshots of a real Linux guest and machines that go on from them, on both hypervisors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from uuid import UUID

import pytest

from tests.actors.host.world import World, world


@pytest.fixture(params=["firecracker", "qemu"])
def w(request: pytest.FixtureRequest) -> Iterator[World]:
    with world(request.param) as made:
        yield made


def who(w: World, index: int) -> dict[str, str]:
    """Ask a guest who it is: host name, clock, a random number of its kernel, a word that the app keeps in memory."""
    lines = w.fetch(f"172.31.0.{2 + index}", "cgi-bin/who").splitlines()
    return dict(line.split("=", 1) for line in lines)


def snapshot(w: World, placement: UUID) -> UUID:
    order = w.store.order(placement)
    w.wake()
    w.wait(lambda: w.store.snapshot(order)["state"] != "creating", "snapshot", 120)
    assert w.store.snapshot(order)["state"] == "ready", w.store.snapshot(order)
    return order


def test_what_is_restored_goes_on_as_somebody_else(w: World) -> None:
    first = w.place(hostname="first", stop_timeout=60.0)
    w.start()
    w.wait_state(first, "running")
    before = who(w, 0)
    assert before["host"] == "first"
    taken = snapshot(w, first)
    row = w.store.snapshot(taken)["made"]
    assert row["size"] > 1 << 20
    assert row["hypervisor"] == w.hypervisor
    # The one that it was taken of goes on as if nothing had been.
    assert who(w, 0)["boot"] == before["boot"]
    assert w.store.row(first)["state"] == "running"

    second = w.place(hostname="second", restore=str(taken), stop_timeout=60.0)
    w.wake()
    w.wait_state(second, "running")
    third = w.place(hostname="third", restore=str(taken), stop_timeout=60.0)
    w.wake()
    w.wait_state(third, "running")
    ones = [who(w, index) for index in range(3)]
    assert [one["host"] for one in ones] == ["first", "second", "third"]
    assert {one["boot"] for one in ones} == {before["boot"]}, "they went on, they did not boot"
    assert len({one["random"] for one in ones}) == 3
    for one in ones:
        assert abs(float(one["clock"]) - time.time()) < 60
    assert "hello from the guest" in w.fetch("[fd7a:77::3]")
    assert "hello from the guest" in w.fetch("[fd7a:77::4]")

    for placement in (first, second, third):
        w.store.change(placement, wanted=False)
    w.wake()
    for placement in (first, second, third):
        row = w.wait_state(placement, "removed")
        assert row["observations"][-1]["outcome"] == "stopped"
    w.wait(lambda: not w.remains(first), f"clean machine: {w.remains(first)}", 10)
    w.store.change_snapshot(taken, state="deleting")
    w.wake()
    w.wait(lambda: w.store.snapshot(taken)["state"] == "deleted", "deleted snapshot", 20)
    assert list(w.paths.snapshots.iterdir()) == []
