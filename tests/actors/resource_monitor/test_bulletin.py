"""What a host tells of itself: bytes that any host may send, of any release."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from actors.resource_monitor.bulletin import (
    HOSTNAME_BYTES,
    HYPERVISOR_BYTES,
    LAYOUT,
    MOST_BYTES,
    VERSION_BYTES,
    Bulletin,
    decode,
    encode,
)
from runtime.membership.claim import META_BYTES

SOME = Bulletin("h1", "0.1.0", 4.0, 1.25, 0.07, 7936, 5120, True, "qemu")

#: What JSON and the API's floats show it to.
_FIGURES = st.floats(0, 1000).map(lambda value: round(value, 2))
BULLETINS = st.builds(
    Bulletin,
    hostname=st.text(st.characters(codec="utf-8", categories=("L", "N")), max_size=60),
    version=st.text("0123456789.", max_size=20),
    cpus=_FIGURES,
    load=_FIGURES,
    waiting=st.floats(0, 1).map(lambda value: round(value, 2)),
    memory=st.integers(0, 2**32 - 1),
    memory_available=st.integers(0, 2**32 - 1),
    closed=st.booleans(),
    hypervisor=st.sampled_from([None, "qemu", "firecracker"]),
)


@given(BULLETINS)
def test_it_arrives_as_it_was(bulletin: Bulletin) -> None:
    data = encode(bulletin)
    assert len(data) <= MOST_BYTES
    assert decode(data) == bulletin
    # Fields that a later release may add are no reason not to read the rest.
    assert decode(data + b"\x07more") == bulletin


@given(st.binary(max_size=600))
def test_bytes_of_any_kind_hurt_nobody(data: bytes) -> None:
    found = decode(data)
    assert found is None or (math.isfinite(found.load) and found.hostname.isprintable())


@given(BULLETINS, st.data())
def test_bytes_that_were_changed_hurt_nobody(bulletin: Bulletin, data: st.DataObject) -> None:
    changed = bytearray(encode(bulletin))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    found = decode(bytes(changed[: data.draw(st.integers(0, len(changed)))]))
    assert found is None or (0 <= found.waiting <= 1 and found.cpus >= 0)


@given(st.integers(0, 255).filter(lambda layout: layout != LAYOUT))
def test_another_layout_says_nothing(layout: int) -> None:
    assert decode(bytes([layout]) + encode(SOME)[1:]) is None


def test_no_part_of_one_is_one() -> None:
    data = encode(SOME)
    assert [decode(data[:end]) for end in range(len(data))] == [None] * len(data)


@given(st.text(max_size=400), st.text(max_size=100), st.text(max_size=100))
def test_texts_are_cut_where_a_character_ends(hostname: str, version: str, hypervisor: str) -> None:
    data = encode(replace(SOME, hostname=hostname, version=version, hypervisor=hypervisor))
    assert len(data) <= MOST_BYTES <= META_BYTES
    found = decode(data)
    if found is None:
        # What a terminal would obey is not shown to anybody.
        assert not (hostname + version + hypervisor).isprintable()
    else:
        assert hostname.startswith(found.hostname)
        assert len(found.hostname.encode()) <= HOSTNAME_BYTES
        assert len(found.version.encode()) <= VERSION_BYTES
        assert len((found.hypervisor or "").encode()) <= HYPERVISOR_BYTES


def test_figures_beyond_all_bounds_become_the_largest() -> None:
    wild = replace(SOME, cpus=math.inf, load=math.nan, waiting=7.0, memory=2**40, memory_available=-5)
    found = decode(encode(wild))
    assert found is not None
    assert (found.cpus, found.load, found.waiting) == (1e6, 0.0, 1.0)
    assert (found.memory, found.memory_available) == (2**32 - 1, 0)


def test_what_would_not_fit_a_figure_is_not_believed() -> None:
    data = bytearray(encode(SOME))
    for at in (2, 6, 10):
        for bad in (b"\x7f\x80\x00\x00", b"\x7f\xc0\x00\x00", b"\xff\x00\x00\x00"):  # infinite, not a number, negative
            assert decode(bytes(data[:at] + bad + data[at + 4 :])) is None
