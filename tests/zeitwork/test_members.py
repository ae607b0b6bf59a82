"""What membership knows, as others use it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from actors.registrar.sightings import Seen, Sighting
from actors.resource_monitor.bulletin import Bulletin, decode, encode
from runtime.links.transport import Address
from runtime.membership import Member, State
from runtime.membership.driver import Roll
from tests.actors.resource_monitor.test_herald import SNAPSHOT
from zeitwork.members import Members, seen, sightings_of

OWN = UUID(int=2)
BULLETIN = Bulletin("h3", "0.2.0", 2.0, 0.5, 0.0, 4000, 1000)
MEMBER = Member(UUID(int=3), 3, 1, State.DEAD, "10.0.0.2:7420", 1, encode(BULLETIN), True, 100.0)


class Links:
    """Stands in for `zeitwork.cluster.Linked`."""

    address = Address("10.0.0.1", 7420)

    def __init__(self, *others: Member) -> None:
        self.others = others
        self.announced: list[bytes] = []
        self.up = True

    def members(self) -> tuple[Member, ...]:
        return self.others if self.up else ()

    def roll(self) -> Roll | None:
        own = replace(MEMBER, host=OWN, state=State.ALIVE, meta=b"")
        return Roll(own, self.others, False, 3) if self.up else None

    def announce(self, meta: bytes) -> bool:
        self.announced.append(meta)
        return self.up


def members(links: Any = None, now: float = 120.0) -> Members:
    clock = [100.0]
    made = Members(OWN, 7, lambda: clock[0], hostname="h2", version="0.1.0")
    made.linked = links
    clock[0] = now
    return made


@pytest.mark.parametrize("state", State)
def test_every_state_has_its_name(state: State) -> None:
    assert seen(replace(MEMBER, state=state)).value == state.name.lower()
    assert len(Seen) == len(State)


def test_a_sighting_is_of_that_life_and_says_since_when() -> None:
    other = replace(MEMBER, host=UUID(int=4), since=130.0)
    found = sightings_of([MEMBER, other], 120.0)
    assert found == {
        MEMBER.host: Sighting(MEMBER.host, 3, Seen.DEAD, True, 20.0),
        other.host: Sighting(other.host, 3, Seen.DEAD, True, 0.0),
    }
    assert members(Links(MEMBER, other)).sightings() == found
    assert members().sightings() == {}


def test_without_links_there_is_this_host_alone() -> None:
    alone = members()
    overview = alone.overview()
    assert (overview.linked, overview.joined, overview.health, overview.by_id()) == (False, True, 0, {})
    (own,) = overview.known
    assert (own.node_id, own.generation, own.own, own.state, own.age) == (OWN, 7, True, Seen.ALIVE, 20.0)
    assert (own.address, own.bulletin) == (None, None)
    # Its own bulletin needs no links.
    alone.herald.measured(SNAPSHOT, closed=False, hypervisor=None, now=120.0)
    (own,) = alone.overview().known
    assert own.bulletin is not None
    assert own.bulletin.hostname == "h2"


def test_with_links_there_are_all_in_the_order_of_their_ids() -> None:
    low = replace(MEMBER, host=UUID(int=1), state=State.ALIVE, refused=False, address="", meta=b"\x63garbage")
    overview = members(Links(MEMBER, low)).overview()
    assert [one.node_id.int for one in overview.known] == [1, 2, 3]
    assert (overview.linked, overview.joined, overview.health) == (True, False, 3)
    first, own, dead = overview.known
    assert (first.address, first.bulletin, first.own) == (None, None, False)
    assert (own.address, own.own) == ("10.0.0.1:7420", True)
    assert (dead.state, dead.age, dead.refused, dead.bulletin) == (Seen.DEAD, 20.0, True, BULLETIN)
    assert overview.by_id()[MEMBER.host] == dead
    assert overview.count() == {Seen.ALIVE: 2, Seen.SUSPECT: 0, Seen.DEAD: 1, Seen.LEFT: 0}


def test_links_without_a_membership_yet_know_this_host() -> None:
    links = Links(MEMBER)
    links.up = False
    overview = members(links).overview()
    assert [one.own for one in overview.known] == [True]
    assert overview.linked


def test_what_is_told_to_others_is_told_again_until_it_could_be() -> None:
    links = Links(MEMBER)
    links.up = False
    made = members(links)
    for now, up in ((120.0, False), (125.0, True), (130.0, True)):
        links.up = up
        made.herald.measured(SNAPSHOT, closed=True, hypervisor="qemu", now=now)
    assert len(links.announced) == 2
    found = decode(links.announced[-1])
    assert found is not None
    assert (found.hostname, found.version, found.closed) == ("h2", "0.1.0", True)
