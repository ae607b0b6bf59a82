"""What new placements are charged, learnt from what running monitors take."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.resource_monitor.messages import Monitor
from actors.resource_monitor.overhead import FLOOR, HALF_LIFE, STEP, Learning, begin, charge, choose, learn

GUESSES = {"firecracker": 32, "qemu": 96}
READINGS = st.lists(st.dictionaries(st.integers(0, 30), st.integers(0, 400_000), max_size=30), max_size=30)


def monitor(number: int, hypervisor: str = "firecracker") -> Monitor:
    return Monitor(UUID(int=number), 1000 + number, 128, hypervisor)


def look(state: Learning, kib: dict[int, int], now: float) -> Learning:
    read = {monitor(number): value for number, value in kib.items()}
    return learn(state, tuple(read), read, now)


def test_without_a_look_the_guess_is_charged() -> None:
    state = begin(GUESSES, {})
    assert dict(state.figures) == GUESSES
    assert state.rounded_peaks() == {}


def test_a_need_that_grows_is_charged_at_once_with_a_margin() -> None:
    state = look(begin(GUESSES, {}), {1: 40 * 1024}, 0.0)
    # 40 MiB and a quarter more are 50, in steps of 4.
    assert state.figures == {"firecracker": 52, "qemu": 96}
    assert state.rounded_peaks() == {"firecracker": 40 * 1024}


def test_it_shrinks_by_looking_long_and_not_at_once() -> None:
    state = look(begin(GUESSES, {}), {1: 4096}, 0.0)
    assert state.figures["firecracker"] == 32
    figures = []
    for minute in range(1, 8 * 60):
        state = look(state, {1: 4096}, minute * 60.0)
        figures.append(state.figures["firecracker"])
    assert figures == sorted(figures, reverse=True)
    assert figures[29] >= 24
    assert figures[-1] == FLOOR["firecracker"]
    # It was never looked at QEMU.
    assert state.figures["qemu"] == 96


def test_time_without_looking_proves_nothing() -> None:
    state = look(begin(GUESSES, {}), {1: 4096}, 0.0)
    for number in range(1, 6):
        state = look(state, {1: 4096}, number * 100 * HALF_LIFE)
    assert state.figures["firecracker"] >= 24
    # Nor does looking while nothing runs.
    empty = begin(GUESSES, {})
    for minute in range(2000):
        empty = look(empty, {}, minute * 60.0)
    assert dict(empty.figures) == GUESSES


def test_an_earlier_process_leaves_what_it_saw() -> None:
    state = begin(GUESSES, {"firecracker": 6 * 1024})
    assert state.figures == {"firecracker": 8, "qemu": 96}
    assert state.rounded_peaks() == {"firecracker": 6 * 1024}
    assert begin(GUESSES, {"firecracker": 60 * 1024}).figures["firecracker"] == 76


def test_a_figure_at_a_boundary_does_not_go_to_and_fro() -> None:
    state = begin({}, {})
    seen = []
    for minute in range(600):
        state = look(state, {1: 13_000 + (minute // 10 % 2) * 300}, minute * 60.0)
        seen.append(state.figures["firecracker"])
    assert set(seen[10:]) == {20}


def test_one_that_runs_wild_does_not_make_all_others_dear() -> None:
    needs = dict.fromkeys(range(30), 4096)
    state = look(begin({}, {}), needs | {30: 200_000}, 0.0)
    assert state.figures["firecracker"] == FLOOR["firecracker"]
    # What it takes is told all the same.
    assert state.by_placement()[UUID(int=30)] >= 200_000


def test_those_read_longest_ago_are_read_next() -> None:
    running = tuple(monitor(number) for number in range(5))
    state = begin(GUESSES, {})
    seen = []
    for now in range(3):
        chosen = choose(state, running, 2)
        seen += [one.placement_id.int for one in chosen]
        state = learn(state, running, dict.fromkeys(chosen, 4096), float(now))
    assert seen == [0, 1, 2, 3, 4, 0]
    assert choose(state, (), 2) == ()


def test_one_that_ended_is_forgotten_and_one_that_could_not_be_read_is_not() -> None:
    state = look(begin(GUESSES, {}), {1: 5000, 2: 6000}, 0.0)
    state = learn(state, (monitor(2),), {}, 1.0)
    assert set(state.by_placement()) == {UUID(int=2)}


@given(READINGS, st.floats(1, 600))
def test_whatever_is_read(looks: list[dict[int, int]], every: float) -> None:
    state = begin(GUESSES, {})
    for number, kib in enumerate(looks):
        before = state
        state = look(state, kib, number * every)
        figure = state.figures["firecracker"]
        assert figure >= FLOOR["firecracker"]
        assert set(state.by_placement()) == {UUID(int=key) for key in kib}
        assert all(value >= kib[key.int] for key, value in state.by_placement().items())
        if kib:
            covered = sorted(kib.values())[: max(1, len(kib) * 95 // 100)]
            assert figure * 1024 >= covered[-1]
            # Never more than what was ever needed or charged before.
            assert figure <= max(before.figures["firecracker"], charge("firecracker", max(kib.values())))
        else:
            assert state.figures == before.figures
    # What is kept for the next process makes it charge at least as much, but for the room at a boundary.
    again = begin(GUESSES, state.rounded_peaks())
    assert again.figures["firecracker"] >= state.figures["firecracker"] - STEP


@pytest.mark.parametrize("name", ["firecracker", "qemu", "another"])
def test_a_charge_is_never_below_its_floor_nor_below_the_need(name: str) -> None:
    assert charge(name, 0.0) == FLOOR.get(name, 16)
    for kib in (1, 4095, 100_000, 10_000_000):
        assert charge(name, kib) * 1024 >= kib * 1.25
