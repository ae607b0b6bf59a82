from __future__ import annotations

from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.model.ids import short_id, uuid7

times = st.integers(0, (1 << 48) - 1)
chance = st.binary(min_size=10, max_size=16)


@given(times, chance)
def test_they_are_version_7_of_rfc_9562_and_hold_their_time(unix_ms: int, entropy: bytes) -> None:
    identifier = uuid7(unix_ms, entropy)
    assert identifier.version == 7
    assert identifier.variant == RFC_4122
    assert identifier.int >> 80 == unix_ms


@given(times, times, chance, chance)
def test_they_sort_by_time(first: int, second: int, one: bytes, two: bytes) -> None:
    if first != second:
        assert (uuid7(first, one) < uuid7(second, two)) == (first < second)
        assert (str(uuid7(first, one)) < str(uuid7(second, two))) == (first < second)


@given(times, st.integers(0, (1 << 80) - 1), st.integers(0, 79))
def test_all_but_the_six_fixed_bits_of_chance_are_used(unix_ms: int, entropy: int, bit: int) -> None:
    """74 of the 80 bits get in; a flip of one of them shows."""
    plain = uuid7(unix_ms, entropy.to_bytes(10, "big"))
    flipped = uuid7(unix_ms, (entropy ^ 1 << bit).to_bytes(10, "big"))
    used = bit < 62 or 68 <= bit < 80
    assert (plain != flipped) is used


@pytest.mark.parametrize(("unix_ms", "entropy"), [(-1, bytes(10)), (1 << 48, bytes(10)), (0, bytes(9)), (0, b"")])
def test_what_does_not_fit_is_refused(unix_ms: int, entropy: bytes) -> None:
    with pytest.raises(ValueError):
        uuid7(unix_ms, entropy)


@given(st.uuids(version=4), st.uuids(version=4))
def test_short_forms_are_ten_safe_characters_of_the_random_part(one: UUID, two: UUID) -> None:
    short = short_id(one)
    assert len(short) == 10
    assert set(short) <= set("abcdefghijklmnopqrstuvwxyz234567")
    mask = (1 << 50) - 1
    assert (short == short_id(two)) == (one.int & mask == two.int & mask)


@given(times, times, chance)
def test_short_forms_do_not_depend_on_the_time(first: int, second: int, entropy: bytes) -> None:
    assert short_id(uuid7(first, entropy)) == short_id(uuid7(second, entropy))
