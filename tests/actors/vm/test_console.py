"""The console: reports are found however the bytes arrive, followed across rotation, and kept bounded."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import trio
from hypothesis import given
from hypothesis import strategies as st

from actors.vm.console import MAX_LINE, ConsoleParser, Follower, Line, follow, gather, rotate, rotated, shrink, tail
from tests.actors.vm.waiting import until

TEXT = (
    b"SeaBIOS\r\n\n[zeitwork -] booted kernel=6.1\n[zeitwork abc] mounted\r\napp says [zeitwork abc] nothing\n"
    b'\n[zeitwork abc] error stage=exec message="no \\"such\\" file: \\u0007x"\n[zeitwork abc] exited status=3'
)
LINES = [
    Line("booted", {"kernel": "6.1"}),
    Line("mounted"),
    Line("error", {"stage": "exec", "message": 'no "such" file: \x07x'}),
    Line("exited", {"status": "3"}),
]


@given(cuts=st.lists(st.integers(0, len(TEXT)), max_size=8))
def test_reports_are_found_however_the_bytes_arrive(cuts: list[int]) -> None:
    parser = ConsoleParser("abc")
    found, begin = [], 0
    for cut in [*sorted(cuts), len(TEXT)]:
        found += parser.feed(TEXT[begin:cut])
        begin = cut
    assert found + parser.finish() == LINES
    assert list(parser.output) == ["SeaBIOS", "app says [zeitwork abc] nothing"]


@given(noise=st.binary(max_size=400))
def test_noise_never_breaks_the_parser(noise: bytes) -> None:
    parser = ConsoleParser("abc")
    parser.feed(noise)
    assert Line("mounted") in [*parser.feed(b"\n[zeitwork abc] mounted\n"), *parser.finish()]


def test_another_nonce_is_not_believed() -> None:
    parser = ConsoleParser("abc")
    assert parser.feed(b"[zeitwork xyz] started pid=1\n[zeitwork ab] mounted\n") == []
    assert [line.verb for line in parser.feed(b"[zeitwork abc] mounted\n[zeitwork -] exited status=0\n")] == ["mounted"]


def test_an_endless_line_costs_bounded_memory_and_the_next_one_is_read() -> None:
    parser = ConsoleParser("abc")
    for _ in range(100):
        assert parser.feed(b"x" * 10_000) == []
    assert len(parser._partial) <= MAX_LINE + 1
    assert parser.feed(b"\n[zeitwork abc] mounted\n") == [Line("mounted")]


def test_escape_sequences_do_not_reach_people() -> None:
    parser = ConsoleParser("abc")
    parser.feed(b"\x1b[31mred\x1b[0m \x07bell\n")
    assert list(parser.output) == ["red bell"]


def test_gather_tells_the_end_from_the_console(tmp_path: Path) -> None:
    console = tmp_path / "console.log"
    console.write_bytes(
        b"[zeitwork abc] started pid=2\nhello\nlast words\n[zeitwork abc] exited signal=9\n[zeitwork abc] halting\n"
        b"[    4.2] reboot: Restarting system\n"
    )
    evidence = gather(console, "abc", vmm_status=0)
    assert (evidence.started, evidence.signal, evidence.status, evidence.oom) == (True, 9, None, False)
    assert evidence.output == ("hello", "last words")
    assert gather(tmp_path / "none", "abc").started is False
    console.write_bytes(b"[zeitwork abc] exited signal=9 oom=1\n")
    assert (gather(console, "abc").signal, gather(console, "abc").oom) == (9, True)


def test_gather_finds_a_start_that_lies_far_back(tmp_path: Path) -> None:
    console = tmp_path / "console.log"
    rotated(console)[1].write_bytes(b"[zeitwork abc] started pid=2\n")
    rotated(console)[0].write_bytes(b"x" * 100_000 + b"\n")
    console.write_bytes(b"y" * 100_000)
    assert gather(console, "abc").started
    assert not gather(console, "other").started


def test_rotation_keeps_the_writer_and_bounds_what_is_kept(tmp_path: Path) -> None:
    console = tmp_path / "console.log"
    with open(console, "ab", buffering=0) as writer:
        for index in range(5):
            writer.write(bytes([65 + index]) * 1500)
            assert rotate(console, limit=1000, keep=3)
            assert not rotate(console, limit=1000, keep=3)
        writer.write(b"live")
    assert console.read_bytes() == b"live"
    assert [path.read_bytes()[:1] for path in rotated(console)] == [b"E", b"D"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["console.log", "console.log.1", "console.log.2"]
    assert tail(console, 10) == b"EEEEEElive"
    shrink(console, 6)
    assert [path.name for path in tmp_path.iterdir()] == ["console.log"]
    assert console.read_bytes() == b"EElive"


async def test_a_follower_misses_nothing_across_rotation(tmp_path: Path) -> None:
    console = tmp_path / "console.log"
    console.write_bytes(b"old ")
    got = bytearray()
    over = False

    async def read() -> None:
        async with contextlib.aclosing(follow(console, 0, ended=lambda: over, poll=0.001)) as pieces:
            async for piece in pieces:
                got.extend(piece)

    sent = bytearray(b"old ")
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            with open(console, "ab", buffering=0) as writer:  # noqa: ASYNC230
                for index in range(200):
                    line = f"line {index} {'x' * (index % 50)}\n".encode()
                    writer.write(line)
                    sent.extend(line)
                    if index % 60 == 59:
                        assert rotate(console, limit=100)
                        await until(lambda: bytes(got) == bytes(sent))
                    await trio.lowlevel.checkpoint()
            over = True
    assert got == sent


def test_a_follower_starts_where_it_is_told(tmp_path: Path) -> None:
    console = tmp_path / "console.log"
    follower = Follower(console, 4)
    assert follower.read() == b""
    console.write_bytes(b"0123456789")
    assert follower.read() == b"456789"
    os.truncate(console, 0)
    assert follower.read() == b""
