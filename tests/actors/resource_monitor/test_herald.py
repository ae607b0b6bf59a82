"""When what a host tells of itself is worth telling again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.model.resources import Capacity
from actors.resource_monitor.bulletin import Bulletin, decode
from actors.resource_monitor.herald import EVERY, EVERY_PER_HOST, Herald, due
from actors.resource_monitor.messages import Pressure, ResourceSnapshot

SOME = Bulletin("h1", "0.1.0", 4.0, 1.0, 0.1, 8000, 4000, False, "qemu")
SNAPSHOT = ResourceSnapshot(
    at=0.0,
    capacity=Capacity(4, 8000, 0, 512, 4.0, 1.0, 96),
    cpus=4.0,
    load=1.0,
    memory_used=4000,
    memory_available=4000,
    cpu_pressure=Pressure(5.0, 10.0, 0.0, 0.0),
    memory_pressure=None,
    io_pressure=None,
    hugepages=(),
)


class Told:
    def __init__(self) -> None:
        self.bytes: list[bytes] = []
        self.possible = True

    def __call__(self, data: bytes) -> bool:
        if self.possible:
            self.bytes.append(data)
        return self.possible


def test_the_first_reading_is_told_as_soon_as_it_can_be() -> None:
    told = Told()
    herald = Herald("h1", "0.1.0", told)
    told.possible = False
    herald.measured(SNAPSHOT, closed=False, hypervisor="qemu", now=0.0)
    assert herald.latest == SOME
    told.possible = True
    for now in (5.0, 10.0):
        herald.measured(SNAPSHOT, closed=False, hypervisor="qemu", now=now)
    assert [decode(one) for one in told.bytes] == [SOME]


def test_what_decides_whether_it_can_be_used_is_told_at_once() -> None:
    told = Told()
    herald = Herald("h1", "0.1.0", told, lambda: 1000)
    for now, closed, hypervisor in (
        (0.0, False, None),
        (5.0, False, "qemu"),
        (10.0, True, "qemu"),
        (15.0, True, "qemu"),
    ):
        herald.measured(SNAPSHOT, closed=closed, hypervisor=hypervisor, now=now)
    assert [(found.closed, found.hypervisor) for one in told.bytes if (found := decode(one))] == [
        (False, None),
        (False, "qemu"),
        (True, "qemu"),
    ]


@pytest.mark.parametrize(
    "change",
    [{"load": 2.0}, {"load": 0.0}, {"waiting": 0.2}, {"memory_available": 3100}, {"memory": 16000}, {"cpus": 2.0}],
)
def test_figures_are_told_seldom_and_more_seldom_among_many(change: dict[str, float]) -> None:
    latest = replace(SOME, **change)  # type: ignore[arg-type]
    for hosts in (1, 100, 1000):
        wait = EVERY + EVERY_PER_HOST * hosts
        assert not due(SOME, latest, wait - 1, hosts)
        assert due(SOME, latest, wait, hosts)


def test_a_figure_that_has_hardly_changed_is_never_told() -> None:
    latest = replace(SOME, load=1.9, waiting=0.19, memory_available=3300)
    assert not due(SOME, latest, 1e9, 1)


@given(st.lists(st.floats(0.0, 64.0), max_size=200), st.integers(1, 1000))
def test_figures_alone_cost_no_more_than_so_many_bulletins(loads: list[float], hosts: int) -> None:
    """However wildly the load goes: one reading each 5 s."""
    told = Told()
    herald = Herald("h1", "0.1.0", told, lambda: hosts)
    for at, load in enumerate(loads):
        herald.measured(replace(SNAPSHOT, load=load), closed=False, hypervisor="qemu", now=at * 5.0)
    assert len(told.bytes) <= 1 + len(loads) * 5.0 / (EVERY + EVERY_PER_HOST * hosts)
