"""Plans as data: read, written, made from seeds; those that found something once are kept, and find nothing now."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.simulation import plan as items
from tests.simulation.crowd import PLANS
from tests.simulation.generate import generate
from tests.simulation.plan import Plan
from tests.simulation.world import simulate

KEPT = sorted(PLANS.glob("*.json"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_a_plan_that_was_kept_finds_nothing_any_more(path: Path) -> None:
    plan = Plan.read(path)
    assert plan.note, "it says what it found"
    assert simulate(plan).violations == ()


@given(seed=st.integers(0, 1000), hosts=st.integers(1, 12), minutes=st.sampled_from([1.0, 3.0, 10.0]))
def test_a_plan_is_read_as_it_was_written(seed: int, hosts: int, minutes: float) -> None:
    plan = generate(seed, hosts, minutes)
    assert Plan.from_json(plan.to_json()) == plan
    assert generate(seed, hosts, minutes) == plan


@given(seed=st.integers(0, 1000), hosts=st.integers(1, 12))
def test_all_faults_are_over_before_the_end(seed: int, hosts: int) -> None:
    plan = generate(seed, hosts, 3.0)
    assert plan.healed <= plan.seconds + 40.0  # an ambush may be met late
    assert all(0 <= item.at <= plan.seconds for item in plan.items)
    assert list(plan.items) == sorted(plan.items, key=lambda item: item.at)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"seed": 1, "hosts": 3, "seconds": 60}',
        '{"seed": 1, "hosts": 3, "seconds": 60, "items": [{"kind": "flood", "at": 1}]}',
        '{"seed": 1, "hosts": 3, "seconds": 60, "items": [{"kind": "kill", "at": 1}]}',
        '{"seed": 1, "hosts": 3, "seconds": 60, "items": [], "colour": "red"}',
    ],
)
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Plan.from_json(text)


def test_what_a_plan_asks_for_happens() -> None:
    """Requests and faults arrive in the world: without this, worlds in which nothing happens would pass."""
    plan = Plan(
        seed=5,
        hosts=3,
        seconds=90.0,
        items=(
            items.Create(5.0, 0, via=0),
            items.Create(5.0, 1, via=1),
            items.CreateGroup(6.0, 0, via=2, replicas=4),
            items.Stop(20.0, 1, via=0),
            items.Crash(30.0, host=0, seconds=30.0),
            items.Scale(40.0, 0, via=1, replicas=2),
        ),
    )
    log: list[str] = []
    result = simulate(plan, log=log)
    assert result.violations == ()
    assert result.figures["requests accepted"] == 5
    text = "\n".join(log)
    for what in ("placement.assigned", "node.state", "instance.moved", "group.scaled", "placement.lost"):
        assert what in text, f"no {what}"


def test_a_world_in_which_nothing_happens_ends_when_its_time_is_over() -> None:
    result = simulate(Plan(seed=1, hosts=2, seconds=30.0))
    assert result.violations == ()
    assert result.seconds == 30.0
    assert result.figures["placements"] == 0


def test_a_request_that_nobody_can_answer_is_not_taken_for_accepted() -> None:
    plan = Plan(1, 3, 60.0, (items.Outage(1.0, 58.0), items.Create(3.0, 0, via=0)))
    result = simulate(plan)
    assert result.violations == ()
    assert result.figures["requests accepted"] == 0


def test_more_than_fits_waits_with_a_reason() -> None:
    plan = Plan(3, 2, 60.0, tuple(items.Create(5.0, number, via=0, vcpu=3) for number in range(7)), vcpu=8)
    log: list[str] = []
    assert simulate(plan, log=log).violations == ()
    assert any("lacks" in line and "vCPU" in line for line in log)


def test_a_seed_of_its_own_changes_what_is_left_to_chance() -> None:
    plan = generate(3, 3, 1.0)
    assert simulate(plan).trace != simulate(replace(plan, seed=plan.seed + 1)).trace


def test_what_breaks_between_hosts_is_noticed_and_mends() -> None:
    """A split is seen by both sides, a cut to the database alone by none; commands go over links; all is well after."""
    plan = Plan(
        seed=2,
        hosts=4,
        seconds=150.0,
        items=(
            *(items.Create(5.0, number, via=0, pinned=number % 4) for number in range(8)),
            items.LostHints(4.0, 10.0, 0.5),
            items.Split(20.0, host=2, count=2, seconds=20.0),
            items.LinkCut(50.0, host=0, other=1, seconds=10.0, way="out"),
            items.LinkHold(50.0, host=1, other=2, seconds=10.0),
            items.LinkStall(50.0, host=2, other=3, seconds=10.0),
            items.LinkSlow(50.0, host=3, other=0, seconds=10.0, mean=1.0),
            items.Cut(90.0, host=3, seconds=25.0),
        ),
        settings={"links": True},
    )
    log: list[str] = []
    result = simulate(plan, log=log)
    assert result.violations == ()
    text = "\n".join(log)
    for seen in ("h0: membership: dead h2", "h3: membership: dead h1", "h0: membership: joined h2", "takes create"):
        assert seen in text, f"no {seen}"
    assert "can't reach the database" in text
    assert "dead h3" not in "\n".join(
        line for line in log if line.startswith(("9", "10", "11")) and "membership" in line
    )
    assert result.looks["answers are those of their requests"] > 100


def test_without_links_nothing_goes_between_hosts() -> None:
    log: list[str] = []
    simulate(Plan(1, 3, 30.0, (items.Create(5.0, 0, via=0), items.Split(10.0, 0, 1, 5.0))), log=log)
    assert not any("membership" in line or " takes " in line for line in log)


def test_a_command_that_comes_late_is_not_heeded() -> None:
    """It was sent by a leader whose successor its host knows of, and arrives when it has nothing to say any more."""
    plan = Plan.read(PLANS / "planted" / "late-command.json")
    log: list[str] = []
    assert simulate(plan, log=log).violations == ()
    assert any("is cut off as it commands" in line for line in log)
    assert any(" takes " in line for line in log)
