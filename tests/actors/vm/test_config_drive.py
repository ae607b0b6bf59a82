"""The config drive's encoder against a decoder of its own, and every input that no guest could honour."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.model.errors import InvalidInput
from actors.vm.config_drive import MAX_PAYLOAD, MAX_STRING, GuestConfig, encode, stop_signal_number

PLAIN = GuestConfig(
    nonce="n1",
    instance="0190-i",
    hostname="hello",
    mac="06:00:0a:00:00:02",
    v4=IPv4Address("10.0.0.2"),
    argv=("/bin/app",),
    epoch=1_764_000_000.25,
)

text = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=60)
names = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0="), min_size=1, max_size=20)
configs = st.builds(
    GuestConfig,
    nonce=st.from_regex(r"[0-9A-Za-z]{1,64}", fullmatch=True),
    instance=text,
    hostname=st.from_regex(r"[0-9a-z]([0-9a-z-]{0,61}[0-9a-z])?", fullmatch=True),
    mac=st.binary(min_size=6, max_size=6).map(lambda octets: ":".join(f"{octet:02x}" for octet in octets)),
    v4=st.ip_addresses(v=4),
    v6=st.none() | st.ip_addresses(v=6),
    argv=st.lists(text, min_size=1, max_size=8).filter(lambda argv: argv[0] != "").map(tuple),
    epoch=st.floats(0, 1e10),
    dns=st.lists(st.ip_addresses().map(str), max_size=4).map(tuple),
    env=st.dictionaries(names, text, max_size=8),
    cwd=text.map(lambda path: "/" + path),
    user=text,
    stop_signal=st.integers(1, 64),
    stop_timeout=st.floats(0, 3600),
)


def decode(drive: bytes) -> list[tuple[str, str]]:
    assert len(drive) % 512 == 0
    assert drive[:8] == b"ZWCONF1\n"
    length, checksum = struct.unpack_from("<II", drive, 8)
    payload, rest = drive[16 : 16 + length], drive[16 + length :]
    assert zlib.crc32(payload) == checksum
    assert rest.strip(b"\0") == b""
    assert payload.endswith(b"\0")
    pairs = []
    for record in payload[:-1].split(b"\0"):
        name, separator, value = record.decode().partition("=")
        assert separator
        pairs.append((name, value))
    return pairs


@given(configs)
def test_what_is_encoded_is_read_back_in_order(config: GuestConfig) -> None:
    pairs = decode(encode(config))
    single = dict(pairs)
    assert [value for name, value in pairs if name == "arg"] == list(config.argv)
    assert [value for name, value in pairs if name == "env"] == [f"{key}={value}" for key, value in config.env.items()]
    assert [value for name, value in pairs if name == "dns"] == list(config.dns)
    for name in ("nonce", "instance", "hostname", "mac", "cwd", "user"):
        assert single[name] == getattr(config, name)
    assert single["v4"] == f"{config.v4}/32"
    assert single["v4gw"] == "169.254.0.1"
    assert ("v6" in single) == ("v6gw" in single) == (config.v6 is not None)
    assert single["stop_signal"] == str(config.stop_signal)
    assert float(single["stop_timeout"]) == pytest.approx(config.stop_timeout, abs=0.001)
    assert float(single["epoch"]) == pytest.approx(config.epoch, abs=0.001)
    assert "e" not in single["epoch"] + single["stop_timeout"]


def test_ipv6_addresses_carry_their_prefix_length() -> None:
    config = dataclasses.replace(PLAIN, v6=IPv6Address("fd00::2"))
    assert dict(decode(encode(config)))["v6"] == "fd00::2/128"
    assert dict(decode(encode(config)))["v6gw"] == "fe80::1"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"argv": ()}, "command"),
        ({"argv": ("",)}, "command"),
        ({"argv": ("a", "b\0c")}, "command"),
        ({"argv": ("a", "x" * (MAX_STRING + 1))}, "command"),
        ({"argv": ("a", "\udc80")}, "command"),
        ({"env": {"": "x"}}, "environment_variables"),
        ({"env": {"A=B": "x"}}, "environment_variables"),
        ({"env": {"A": "x\0"}}, "environment_variables.A"),
        ({"env": {f"K{i}": "v" * 100_000 for i in range(MAX_PAYLOAD // 100_000 + 1)}}, "environment_variables"),
        ({"cwd": "relative"}, "working_dir"),
        ({"nonce": "a b"}, "nonce"),
        ({"nonce": ""}, "nonce"),
        ({"hostname": "-x"}, "hostname"),
        ({"hostname": "x" * 65}, "hostname"),
        ({"hostname": "a\nb"}, "hostname"),
        ({"mac": "nonsense"}, "mac"),
        ({"stop_signal": 0}, "stop_signal"),
        ({"stop_signal": 65}, "stop_signal"),
        ({"stop_timeout": -1.0}, "stop_timeout"),
        ({"stop_timeout": float("nan")}, "stop_timeout"),
        ({"stop_timeout": float("inf")}, "stop_timeout"),
        ({"epoch": float("nan")}, "epoch"),
        ({"dns": ("1.1.1.1",) * 9}, "dns"),
    ],
)
def test_what_no_guest_could_honour_is_refused_with_its_field(change: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        encode(dataclasses.replace(PLAIN, **change))  # type: ignore[arg-type]
    assert raised.value.field == field


def test_an_empty_working_directory_is_the_root() -> None:
    assert dict(decode(encode(dataclasses.replace(PLAIN, cwd=""))))["cwd"] == "/"


@pytest.mark.parametrize(
    ("name", "number"),
    [("SIGTERM", 15), ("term", 15), ("", 15), ("9", 9), ("SIGQUIT", 3), ("SIGRTMIN+3", 37), ("64", 64)],
)
def test_stop_signals_by_name_and_number(name: str, number: int) -> None:
    assert stop_signal_number(name) == number


@pytest.mark.parametrize("name", ["SIGNOPE", "0", "65", "-1", "SIGRTMIN+99", "SIGTERM+x", "²", "99999999999"])
def test_unknown_stop_signals_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        stop_signal_number(name)
