"""Hosts that are removed, leave and are invited in worlds: each of that happens there, and ends as it should."""

from __future__ import annotations

from tests.simulation import plan as items
from tests.simulation.plan import Item, Plan
from tests.simulation.world import simulate

RUNNING = (items.CreateGroup(5.0, 0, via=0, replicas=6),)


def told(*happens: Item, hosts: int = 3, machines: int = 0, links: bool = False, seconds: float = 100.0) -> str:
    """Return all that happens in a world in which no rule is broken."""
    log: list[str] = []
    settings = {"links": links, "machines": machines}
    result = simulate(Plan(3, hosts, seconds, (*RUNNING, *happens), settings=settings), log=log)
    assert result.violations == ()
    return "\n".join(log)


def test_a_host_that_was_said_to_be_dead_is_let_in_no_more() -> None:
    """It was cut off all the time: its machines run on while theirs run elsewhere, and others want no link with it."""
    apart = items.Split(20.0, host=2, count=1, seconds=50.0, database=True)
    text = told(apart, items.Remove(55.0, 2, via=0, dead=True), hosts=3, links=True)
    assert "remove 2 dead accepted" in text
    assert "h2: process ends" in text
    assert "h2: knocks as generation 1" in text
    last = [line for line in text.splitlines() if " h2: is linked with " in line][-1]
    assert last.endswith("with 0 hosts")
    assert "placement.lost" in text


def test_a_host_is_removed_only_when_it_is_silent_and_nothing_waits_there() -> None:
    text = told(
        items.Remove(20.0, 1, via=0),
        items.Remove(20.0, 1, via=0, dead=True),
        items.Kill(30.0, 1, 50.0),
        items.Remove(45.0, 1, via=0, dead=True),
        items.Remove(70.0, 1, via=0),
    )
    assert text.count("remove 1 refused") == 1
    assert text.count("remove 1 dead refused: h1 is alive") == 2
    assert "remove 1 accepted" in text
    # Nobody said that it was dead: its machine is started as the host that it was.
    assert text.count("h1: ready") == 2


def test_a_host_leaves_and_comes_as_another_one() -> None:
    text = told(
        items.Leave(20.0, 2),
        items.Leave(25.0, 2, force=True),
        items.Invite(40.0, 2, via=0),
        links=True,
    )
    assert "leave 2 refused" in text
    assert "leave 2 accepted" in text
    assert "with what ran there stopped" in text
    assert text.count("h2: ready") == 2
    assert "node.accepted" in text


def test_who_is_invited_becomes_a_host_or_is_given_up() -> None:
    text = told(
        items.Kill(9.0, 3, 5.0),
        items.Invite(10.0, 3, via=0),
        items.Invite(11.0, 3, via=1),
        items.Invite(10.0, 4, via=0, wrong=True),
        items.Kill(9.0, 5, 60.0),
        items.Invite(10.0, 5, via=0, timeout=20.0),
        machines=3,
    )
    assert "invite 3 refused: hostname: a node with hostname h3 is expected already" in text
    assert text.count("h3: ready") == 1
    assert "the code is not that of the host" in text
    assert "not joined within 20 s" in text
    assert "h4: ready" not in text
    assert "h5: ready" not in text


def test_a_machine_that_forgets_what_it_was_is_invited_anew() -> None:
    text = told(
        items.Crash(20.0, 2, 40.0),
        items.Remove(55.0, 2, via=0, dead=True),
        items.Leave(65.0, 2),
        items.Leave(66.0, 2, force=True),
        items.Invite(70.0, 2, via=1),
    )
    assert "leave 2 refused" in text
    assert "leave 2 accepted" in text
    assert text.count("h2: ready") == 2
