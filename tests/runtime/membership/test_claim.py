"""Which claim holds: a join-semilattice, whatever comes in whatever order and however often."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.membership.claim import ADDRESS_BYTES, META_BYTES, Claim, Profile, State, join
from tests.runtime.membership.parts import claim, claims_of, host

ONE = claims_of(1)


@given(ONE, ONE)
def test_the_order_of_two_claims_does_not_matter(a: Claim, b: Claim) -> None:
    assert join(a, b) == join(b, a)


@given(ONE, ONE, ONE)
def test_the_order_of_three_claims_does_not_matter(a: Claim, b: Claim, c: Claim) -> None:
    assert join(join(a, b), c) == join(a, join(b, c))


@given(ONE, ONE)
def test_what_was_heard_already_changes_nothing(a: Claim, b: Claim) -> None:
    both = join(a, b)
    assert join(a, a) is a
    assert join(both, a) is both
    assert join(both, b) is both


@given(ONE, ONE)
def test_nothing_goes_back(a: Claim, b: Claim) -> None:
    both = join(a, b)
    for one in (a, b):
        assert (both.generation, both.incarnation, both.state) >= (one.generation, one.incarnation, one.state)
        if both.generation == one.generation and one.profile is not None:
            assert both.profile is not None
            assert both.profile >= one.profile


@given(st.lists(ONE, min_size=1, max_size=6).flatmap(lambda them: st.tuples(st.just(them), st.permutations(them))))
def test_two_hosts_that_heard_the_same_hold_the_same(orders: tuple[list[Claim], list[Claim]]) -> None:
    def hold(them: list[Claim]) -> Claim:
        held = them[0]
        for other in them[1:]:
            held = join(held, other)
        return held

    assert hold(orders[0]) == hold(orders[1])


def test_a_later_life_supersedes_everything_about_an_earlier_one() -> None:
    dead = claim(1, State.LEFT, 9, generation=1)
    assert join(dead, claim(1, generation=2, bare=True)) == claim(1, generation=2, bare=True)


def test_only_a_higher_incarnation_refutes() -> None:
    dead = claim(1, State.DEAD, 3)
    assert join(dead, claim(1, State.ALIVE, 3)) is dead
    assert join(dead, claim(1, State.ALIVE, 4)).state is State.ALIVE


def test_the_profile_survives_claims_without_one_in_the_same_life() -> None:
    known = claim(1)
    assert join(known, claim(1, State.SUSPECT, 2, by=(4,), bare=True)).profile == known.profile
    assert join(claim(1, State.SUSPECT, 2, by=(4,), bare=True), known).profile == known.profile


def test_accusers_come_together_and_are_bounded() -> None:
    one, other = claim(1, State.SUSPECT, by=(2, 3)), claim(1, State.SUSPECT, by=(3, 4, 5, 6))
    assert join(one, other).accusers == tuple(host(number) for number in (2, 3, 4, 5))
    assert join(one, claim(1, incarnation=1)).accusers == ()


def test_a_profile_that_is_too_large_is_refused() -> None:
    Profile(1, "a" * ADDRESS_BYTES, b"x" * META_BYTES)
    with pytest.raises(ValueError, match="address"):
        Profile(1, "ä" * ADDRESS_BYTES)
    with pytest.raises(ValueError, match=f"{META_BYTES} bytes, not {META_BYTES + 1}"):
        Profile(1, "a", b"x" * (META_BYTES + 1))
