"""How long it takes until what ran on a host runs elsewhere by the simulated clock, and when nothing is hurried."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.simulation import plan as items
from tests.simulation.plan import Item, Plan
from tests.simulation.world import simulate

#: When it happens, and seconds within which what ran on a silent host runs elsewhere (DESIGN 10; a guest boots in 1 s).
AT, ELSEWHERE_WITHIN = 30.0, 15.0
#: Seconds that what may still run is given, and those of a leader's lease.
GRACE, LEASE = 60.0, 10.0
_MOMENT, _EVENT = re.compile(r"(\d+\.\d+) "), re.compile(r" +(\d+) (\S+) (\S+) (\S+) (.*)")


def events(plan: Plan) -> Iterator[tuple[float, str, str]]:
    """Yield when, what and the rest of each event that is written in a world."""
    log: list[str] = []
    assert simulate(plan, log=log).violations == ()
    seen: set[str] = set()
    at = 0.0
    for line in log:
        if moment := _MOMENT.match(line):
            at = float(moment[1])
        elif (event := _EVENT.match(line)) and event[1] not in seen:
            seen.add(event[1])
            yield at, event[3], event[5]


def elsewhere_after(seed: int, links: bool, *broken: Item) -> float:
    """Return how long after something broke an instance that was lost by it ran again."""
    group = items.CreateGroup(5.0, 0, via=0, replicas=10)
    plan = Plan(seed, 5, AT + 10.0, (group, *broken), settings={"links": links})
    lost = False
    for at, what, rest in events(plan):
        lost = lost or (at > AT and what == "placement.lost")
        if lost and what == "placement.state" and "'to': <PlacementState.RUNNING" in rest:
            return at - AT
    raise AssertionError("nothing was replaced")


@pytest.mark.parametrize("links", [True, False], ids=["with gossip", "without"])
@pytest.mark.parametrize(
    "broken",
    [items.Crash(AT, 1, 60.0), items.Split(AT, 1, 1, 60.0, database=True)],
    ids=["its machine crashed", "it was cut off from all"],
)
def test_what_ran_on_a_silent_host_runs_elsewhere_soon(broken: Item, links: bool) -> None:
    for seed in (1, 2):
        took = elsewhere_after(seed, links, broken)
        assert took <= ELSEWHERE_WITHIN
        if links:
            # Gossip is evidence of its own: nobody waits for three signs of life that do not come.
            assert took < elsewhere_after(seed, False, broken)


@pytest.mark.parametrize(
    "broken",
    [items.Kill(AT, 1, 100.0), items.Cut(AT, 1, 100.0)],
    ids=["only its process is gone", "only the database is out of its reach"],
)
def test_what_may_still_run_is_given_time(broken: Item) -> None:
    assert elsewhere_after(1, True, broken) >= GRACE


def test_a_leader_that_is_killed_has_a_successor_within_its_lease_and_a_second() -> None:
    plan = Plan(
        seed=3,
        hosts=3,
        seconds=60.0,
        items=(items.Ambush(20.0, 30.0, "apply", "kill"), items.Create(20.0, 0, via=0)),
        settings={"links": True},
    )
    log: list[str] = []
    assert simulate(plan, log=log).violations == ()
    killed = next(line for line in log if "ambush: Kill" in line)
    placed = next(at for at, what, _ in events(plan) if what == "placement.assigned")
    assert float(killed.split()[0]) < placed <= float(killed.split()[0]) + LEASE + 1.0
