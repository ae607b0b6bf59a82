"""The room for connections that others have dialled."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from runtime.links.room import LINES, Place, Room
from runtime.links.rules import Rules

FEW = Rules(greetings=6, accepted=10, of_one=3)
ADDRESSES = ("192.0.2.1", "192.0.2.2", "[2001:db8::1]", "")
HOSTS = (UUID(int=1), UUID(int=2))


def test_one_address_takes_half_of_the_greetings_and_gives_them_back() -> None:
    room = Room(FEW, lambda: 0.0)
    silent = [place for _ in range(20) if (place := room.enter(ADDRESSES[0])) is not None]
    assert len(silent) == 3
    other = room.enter(ADDRESSES[1])
    assert other is not None
    silent[0].leave()
    assert room.enter(ADDRESSES[0]) is not None
    # Who has greeted is in nobody's way.
    silent[1].greeted()
    assert room.enter(ADDRESSES[0]) is not None


def test_lines_about_strangers_are_as_many_as_somebody_can_read() -> None:
    now = [0.0]
    room = Room(FEW, lambda: now[0])
    assert sum(room.may_say() for _ in range(10_000)) == LINES
    now[0] += 5.0
    assert sum(room.may_say() for _ in range(10_000)) == 5
    now[0] += 10_000.0
    assert sum(room.may_say() for _ in range(10_000)) == LINES


@given(st.lists(st.tuples(st.sampled_from(["enter", "prove", "greeted", "leave"]), st.integers(0, 30)), max_size=80))
def test_whatever_happens_the_bounds_hold_and_all_is_given_back(steps: list[tuple[str, int]]) -> None:
    room, places = Room(FEW, lambda: 0.0), list[Place]()
    for what, which in steps:
        if what == "enter":
            place = room.enter(ADDRESSES[which % len(ADDRESSES)])
            places += [] if place is None else [place]
        elif places:
            place = places[which % len(places)]
            if what == "prove" and place.host is None:
                place.of(HOSTS[which % 2])
            elif what == "greeted":
                place.greeted()
            elif what == "leave":
                places.remove(place)
                place.leave()
        assert len(places) == room.accepted <= FEW.accepted
        assert room.greetings <= FEW.greetings
        assert all(sum(place.host == host for place in places) <= FEW.of_one for host in HOSTS)
    for place in places:
        place.leave()
    assert (room.accepted, room.greetings) == (0, 0)
    assert not room._of
    assert not room._greeting
