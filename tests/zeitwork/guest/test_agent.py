"""The guest's agent, run on this machine under the sanitizers: requests, greetings, identities."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from actors.vm.agent.wire import (
    MAX_PAYLOAD,
    TOKEN_BYTES,
    VERSION,
    Frame,
    Kind,
    parse_records,
)
from actors.vm.config_drive import encode
from tests.actors.vm.test_config_drive import PLAIN
from tests.zeitwork.guest.agent_host import PATIENCE, AgentClient, connected

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: commands become their user as in a guest")
STATISTICS = {
    "uptime_ms",
    "load_1m_milli",
    "processes",
    "memory_total_kib",
    "memory_available_kib",
    "disk_total_kib",
    "disk_used_kib",
    "network_received_bytes",
    "network_sent_bytes",
    "cpu_user_ms",
    "cpu_system_ms",
    "cpu_idle_ms",
    "oom_kills",
    "app_pid",
}


def number(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "little")


def test_requests_are_answered_in_order(host: AgentClient) -> None:
    host.send(Kind.PING, 0, number(1, 8))
    host.send(Kind.STATISTICS)
    host.send(Kind.PING, 0, number(2, 8))
    answers = [host.receive() for _ in range(3)]
    assert [answer.kind for answer in answers] == [Kind.PONG, Kind.STATISTICS_BACK, Kind.PONG]
    assert [answers[0].payload[:8], answers[2].payload[:8]] == [number(1, 8), number(2, 8)]
    assert int.from_bytes(answers[0].payload[8:], "little") <= int.from_bytes(answers[2].payload[8:], "little")


def test_statistics(host: AgentClient) -> None:
    found = {name: int(value) for name, value in parse_records(host.request(Kind.STATISTICS)).items()}
    assert set(found) == STATISTICS
    memory, disk = psutil.virtual_memory(), psutil.disk_usage("/")
    assert found["memory_total_kib"] == memory.total // 1024
    assert 0 < found["memory_available_kib"] <= found["memory_total_kib"]
    assert found["disk_total_kib"] == disk.total // 1024
    assert 0 < found["disk_used_kib"] < found["disk_total_kib"]
    cpu = psutil.cpu_times()
    assert 0 < found["cpu_user_ms"] <= (cpu.user + cpu.nice + 1) * 1000
    assert 0 < found["cpu_idle_ms"] <= (cpu.idle + cpu.iowait + 1) * 1000
    assert found["processes"] > 1
    traffic = psutil.net_io_counters(pernic=True).get("eth0")
    if traffic is not None:
        assert 0 < found["network_received_bytes"] <= traffic.bytes_recv + 1_000_000_000
        assert found["network_sent_bytes"] > 0


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (Kind.PING, b"1234567"),
        (Kind.THAW, b""),
        (Kind.ENTROPY, b""),
        (Kind.ENTROPY, bytes(513)),
        (Kind.IDENTITY, bytes(8)),
        (Kind.HELLO, bytes(17)),
        (9, b"from a newer host"),
        (Kind.OPEN, b"end=\0"),
        (200, b""),
    ],
)
def test_a_request_that_is_none_gets_an_error_and_the_next_one_its_answer(
    host: AgentClient, kind: int, payload: bytes
) -> None:
    host.send(kind, 0, payload)
    answer = host.receive()
    assert (answer.kind, answer.session, answer.payload[0]) == (Kind.ERROR, 0, kind)
    assert answer.payload[1:].isascii()
    host.ping()


def test_freeze_and_thaw(host: AgentClient) -> None:
    assert host.hello() == 0
    host.request(Kind.FREEZE)
    assert host.hello() == 1
    assert host.refusal(1, "true") == "the guest is frozen"
    host.request(Kind.FREEZE)
    host.request(Kind.THAW, number(0, 8))
    host.request(Kind.THAW, number(0, 8))
    assert host.hello() == 0


def test_frames_for_no_session_are_ignored(host: AgentClient) -> None:
    for kind in (Kind.DATA, Kind.EOF, Kind.RESIZE, Kind.SIGNAL, Kind.CREDIT, Kind.CLOSE, Kind.PING, 99, 255):
        host.send(kind, 77, b"12345678")
    host.ping()


def test_nothing_is_done_before_the_greeting(agent: Path, tmp_path: Path) -> None:
    with connected(agent) as client:
        client.send_open(1, "touch", str(tmp_path / "made"))
        client.send(Kind.PING, 0, bytes(8))
        token = os.urandom(TOKEN_BYTES)
        client.send(Kind.HELLO, 0, token + number(VERSION, 2))
        assert client.receive() == Frame(Kind.HELLO_BACK, 0, token + number(VERSION, 2) + bytes(2))
        client.run("true")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("garbage", [b"\x01\x01\0\0\0\0\0\0", b"\x01\0\x01\x40\0\0\0\0", b"\xff" * 9000])
def test_what_is_no_frame_ends_the_connection(agent: Path, garbage: bytes) -> None:
    with connected(agent) as client:
        client.hello()
        with pytest.raises((EOFError, ConnectionError)):
            client.connection.sendall(garbage)
            client.receive()
    with connected(agent) as client:
        client.hello()


def test_a_greeting_ends_any_unfinished_frame(agent: Path) -> None:
    for length in (1, 100, MAX_PAYLOAD):
        with connected(agent) as client:
            frame = Frame(Kind.OPEN, 1, bytes(length)).encode()
            for cut in (1, 7, 8, len(frame) - 1):
                client.connection.sendall(frame[:cut])
                client.hello()


def parts(drive: bytes, size: int = MAX_PAYLOAD - 8) -> Iterator[bytes]:
    for offset in range(0, len(drive), size):
        yield number(len(drive)) + number(offset) + drive[offset : offset + size]


def take_on(host: AgentClient, drive: bytes, size: int = MAX_PAYLOAD - 8) -> None:
    for part in parts(drive, size):
        host.request(Kind.IDENTITY, part)


def test_later_commands_have_the_new_environment_of_another_identity(host: AgentClient) -> None:
    config = dataclasses.replace(PLAIN, hostname="another", env={"APP": "moved", "BULK": "x" * 100_000}, user="0:0")
    take_on(host, encode(config))
    assert host.run("sh", "-c", "echo $APP $HOSTNAME ${#BULK}", cwd="/")[0] == b"moved another 100000\n"
    with pytest.raises(AssertionError, match="cannot move to immovable"):
        take_on(host, encode(dataclasses.replace(config, hostname="immovable", env={"APP": "lost"})))
    assert host.run("sh", "-c", "echo $APP $HOSTNAME", cwd="/")[0] == b"moved another\n"
    take_on(host, encode(dataclasses.replace(config, env={"APP": "native", "COLOUR": "blue"})), size=100)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (number(8) + number(0) + b"x", "a config drive of 8 bytes"),
        (number(2**21) + number(0) + b"x", "a config drive of 2097152 bytes"),
        (number(2**32 - 1) + number(0) + b"x", "a config drive of 4294967295 bytes"),
        (number(100) + number(5) + b"x", "does not follow"),
        (number(16) + number(0) + bytes(17), "does not follow"),
        (number(16) + number(2**32 - 1) + bytes(17), "does not follow"),
        (number(16) + number(0) + bytes(16), "not a config drive of version 1"),
        (number(512) + number(0) + encode(PLAIN).replace(b"hello", b"hullo"), "checksum"),
    ],
)
def test_a_damaged_identity_changes_nothing(host: AgentClient, payload: bytes, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        host.request(Kind.IDENTITY, payload)
    host.ping()


def test_an_identity_begun_by_an_earlier_host_is_dropped(host: AgentClient) -> None:
    first, second, *_ = parts(encode(PLAIN), 100)
    host.request(Kind.IDENTITY, first)
    host.hello()
    with pytest.raises(AssertionError, match="does not follow"):
        host.request(Kind.IDENTITY, second)


def test_it_sleeps_while_nothing_happens(agent: Path) -> None:
    with connected(agent) as client:
        client.hello()
        client.open(1, "sleep", "1000")
        process = _process(client)
        # What earlier tests left has ended, and what is kept of it for a moment is forgotten.
        end = time.monotonic() + PATIENCE
        while len(process.children()) > 1:
            assert time.monotonic() < end, process.children()
            time.sleep(0.05)
        time.sleep(2.5)
        before, began = process.num_ctx_switches().voluntary, time.monotonic()
        time.sleep(3)
        # Its loop here wakes once a second to be sure; the init's does not.
        woken = process.num_ctx_switches().voluntary - before
        assert woken < 5 * (time.monotonic() - began)


def _process(client: AgentClient) -> psutil.Process:
    return psutil.Process(int(parse_records(client.request(Kind.STATISTICS))["app_pid"]))
