"""Whatever a host sends, the agent lives on without an error of the sanitizers and answers the next one."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.vm.agent.wire import MAX_PAYLOAD, TOKEN_BYTES, Kind, records
from actors.vm.config_drive import encode
from tests.actors.vm.test_config_drive import PLAIN
from tests.zeitwork.guest.agent_host import agent_host, connected

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: commands become their user as in a guest")
SLOW = settings(
    max_examples=int(os.environ.get("ZEITWORK_TEST_FUZZ_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
DRIVE = encode(PLAIN)
COMMANDS = (
    ("true",),
    ("cat",),
    ("yes",),
    ("sh", "-c", "yes >&2"),
    ("sh", "-c", "trap '' HUP TERM; sleep 100"),
    ("sh", "-c", "sleep 100 & echo $!"),
    ("missing",),
)

sessions = st.integers(0, 20) | st.integers(0, 2**32 - 1)
numbers = st.integers(0, 2**32 - 1).map(lambda value: value.to_bytes(4, "little"))


@st.composite
def opens(draw: st.DrawFn) -> bytes:
    items = [("arg", argument) for argument in draw(st.sampled_from(COMMANDS))]
    names = st.sampled_from(["tty", "rows", "cols", "cwd", "user", "env", "arg", "end", "colour"])
    values = st.sampled_from(["1", "0", "24", "65535", "65536", "/", "/tmp", "nobody", "A=b", "", "=", "x" * 5000])
    more = draw(st.lists(st.tuples(names, values), max_size=3))
    return records([*items, *more, ("end", "")])


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    kind, payload = draw(
        st.one_of(
            st.tuples(st.just(Kind.HELLO), st.binary(min_size=TOKEN_BYTES, max_size=TOKEN_BYTES + 4)),
            st.tuples(st.sampled_from([Kind.PING, Kind.STATISTICS, Kind.FREEZE, Kind.THAW]), st.just(bytes(8))),
            st.tuples(st.just(Kind.IDENTITY), identities()),
            st.tuples(st.just(Kind.OPEN), opens()),
            st.tuples(st.just(Kind.DATA), st.integers(0, MAX_PAYLOAD).map(bytes)),
            st.tuples(st.sampled_from([Kind.RESIZE, Kind.CREDIT]), numbers),
            st.tuples(st.sampled_from([Kind.EOF, Kind.CLOSE]), st.just(b"")),
            st.tuples(st.just(Kind.SIGNAL), st.binary(max_size=2)),
            st.tuples(st.integers(0, 255), st.binary(max_size=30)),
        )
    )
    whole = draw(st.sampled_from([True] * 9 + [False]))
    length = len(payload) if whole else draw(st.integers(0, 2**16 - 1))
    return struct.pack("<BBHI", kind, 0, length, draw(sessions)) + payload


@st.composite
def identities(draw: st.DrawFn) -> bytes:
    total = draw(st.sampled_from([len(DRIVE), 16, 2**20, 2**32 - 1]))
    offset = draw(st.sampled_from([0, 0, 100, 2**32 - 1]))
    return struct.pack("<II", total, offset) + draw(st.sampled_from([DRIVE, DRIVE[:100], DRIVE[100:], b""]))


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Frames, most of them right, some bytes of them changed, cut anywhere."""
    data = bytearray(b"".join(draw(st.lists(frames(), max_size=12))))
    for position, value in draw(st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=2)):
        if data and draw(st.booleans()):
            data[position % len(data)] = value
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with agent_host(tmp_path_factory.mktemp("agent"), user="nobody") as path:
        yield path


def check_alive(agent: Path) -> None:
    with connected(agent) as client:
        client.hello()
        client.request(Kind.THAW, bytes(8))
        client.ping()
        assert client.run("echo", "alive", cwd="/", user="nobody")[0] == b"alive\n"


def throw(agent: Path, data: bytes, greet: bool, read: bool) -> None:
    with connected(agent) as client:
        client.connection.settimeout(0.05 if read else 0.01)
        with contextlib.suppress(TimeoutError, ConnectionError, EOFError):
            if greet:
                client.send(Kind.HELLO, 0, bytes(TOKEN_BYTES + 2))
            for start in range(0, len(data), 5000):
                client.connection.sendall(data[start : start + 5000])
                if read:
                    client.receive()
            while read:
                client.receive()


@SLOW
@given(data=st.binary(max_size=200), greet=st.booleans())
def test_random_bytes(agent: Path, data: bytes, greet: bool) -> None:
    throw(agent, data, greet, read=False)
    check_alive(agent)


@SLOW
@given(data=streams(), read=st.booleans())
def test_frames_that_are_right_wrong_damaged_and_cut(agent: Path, data: bytes, read: bool) -> None:
    throw(agent, data, greet=True, read=read)
    check_alive(agent)


def test_a_flood_of_commands(agent: Path) -> None:
    for round in range(5):
        with connected(agent) as client:
            client.hello()
            with contextlib.suppress(ConnectionError, TimeoutError):
                client.connection.settimeout(1)
                for session in range(1, 200):
                    client.send_open(session % 40 + 1, *COMMANDS[session % len(COMMANDS)], tty=str(round % 2))
                    if session % 3 == 0:
                        client.send(Kind.CLOSE, session % 40)
        check_alive(agent)
