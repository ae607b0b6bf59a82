"""What membership knows, as others use it."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from actors.registrar.sightings import Seen, Sighting
from runtime.membership import Member, State
from zeitwork.members import seen, sightings_of

MEMBER = Member(UUID(int=2), 3, 1, State.DEAD, "10.0.0.2:7420", 1, b"", True, 100.0)


@pytest.mark.parametrize("state", State)
def test_every_state_has_its_name(state: State) -> None:
    assert seen(replace(MEMBER, state=state)).value == state.name.lower()
    assert len(Seen) == len(State)


def test_a_sighting_is_of_that_life_and_says_since_when() -> None:
    other = replace(MEMBER, host=UUID(int=3), since=130.0)
    found = sightings_of([MEMBER, other], 120.0)
    assert found == {
        MEMBER.host: Sighting(MEMBER.host, 3, Seen.DEAD, True, 20.0),
        other.host: Sighting(other.host, 3, Seen.DEAD, True, 0.0),
    }
