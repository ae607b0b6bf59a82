from __future__ import annotations

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.model.errors import InvalidInput
from actors.model.units import GIB, KIB, MIB, bytes_to_mib, format_mib, parse_mib


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        (512, 512), ("512", 512), (0, 0), ("0", 0), (" 512 ", 512),
        ("512MiB", 512), ("512 mib", 512), ("512M", 512), ("512m", 512),
        ("1GiB", 1024), ("1G", 1024), ("1.5GiB", 1536), ("0.5 g", 512), ("2TiB", 2 << 20), ("1t", 1 << 20),
        ("1GB", 954), ("2GB", 1908), ("1MB", 1), ("1000kb", 1), ("1kb", 1), ("1KiB", 1), ("1048576b", 1), ("1b", 1),
        ("1025KiB", 2), ("0.1", 1),
    ],
)  # fmt: skip
def test_sizes_people_write(text: str | int, mib: int) -> None:
    assert parse_mib(text) == mib


@pytest.mark.parametrize(
    "text", ["", " ", "GiB", "-1", -1, "1.5.5", "1,5GiB", "1e3", "0x10", "12 parsecs", "1 G B", "½", "inf", True, False,
             1.5, None, [], "1.", ".5", "\u0663", "9" * 5000, 10**19]
)  # fmt: skip
def test_what_is_not_a_size_is_refused_with_the_field_and_an_example(text: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_mib(text, field="resources.memory")  # type: ignore[arg-type]
    assert caught.value.field == "resources.memory"
    assert caught.value.fix is not None


@given(
    st.integers(0, 10**9),
    st.integers(0, 999),
    st.sampled_from([("kib", KIB), ("MiB", MIB), ("GiB", GIB), ("MB", 10**6), ("GB", 10**9), ("", MIB)]),
)
def test_parsing_is_exact_and_rounds_up(whole: int, thousandths: int, unit: tuple[str, int]) -> None:
    exact = (whole + Fraction(thousandths, 1000)) * unit[1] / MIB
    assert parse_mib(f"{whole}.{thousandths:03d}{unit[0]}") == ceil(exact)


@given(st.integers(0, 1 << 60))
def test_bytes_are_never_overstated(count: int) -> None:
    assert bytes_to_mib(count) * MIB <= count < (bytes_to_mib(count) + 1) * MIB


@given(st.integers(0, 1 << 40))
def test_what_people_read_is_right_to_a_twentieth_of_its_unit(mib: int) -> None:
    value, unit = format_mib(mib).split()
    factor = {"MiB": 1, "GiB": 1024, "TiB": 1 << 20}[unit]
    assert abs(float(value) * factor - mib) <= factor / 20 + 1e-6 * mib
    assert unit == "TiB" or float(value) <= 1024


@given(st.integers(0, 1023) | st.integers(0, 4000).map(lambda n: n * 1024))
def test_round_sizes_survive_the_way_there_and_back(mib: int) -> None:
    if mib < 1024 * 1024:
        assert parse_mib(format_mib(mib)) == mib


def test_for_people() -> None:
    assert [format_mib(n) for n in (0, 512, 1024, 1536, 2 << 20)] == ["0 MiB", "512 MiB", "1 GiB", "1.5 GiB", "2 TiB"]
