"""What waits for a peer: order within a lane, the system's lane first, bounds, and requests whose time is over."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from runtime.links import frames
from runtime.links.connection import Connection
from runtime.links.errors import QueueFull
from runtime.links.outbox import LIMIT_BYTES, LIMIT_FRAMES, Outbox
from tests.runtime.links.messages import HIGH, LOW, Double, hello, registry

LIMIT = 1000


def run(function: Any, *args: Any) -> Any:
    return trio.run(function, *args)


async def drain(outbox: Outbox) -> list[bytes]:
    """Return all messages that are ready."""
    messages: list[bytes] = []

    async def take() -> None:
        while True:
            messages.append(await outbox.take())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return messages


entries = st.lists(st.tuples(st.sampled_from(["system", "control"]), st.integers(1, LIMIT)), max_size=40)


@given(entries)
def test_lanes_keep_their_order_and_messages_their_size(given_entries: list[tuple[Any, int]]) -> None:
    async def go() -> None:
        outbox = Outbox("x", trio.current_time, LIMIT)
        put: dict[str, list[bytes]] = {"system": [], "control": []}
        for number, (lane, size) in enumerate(given_entries):
            frame = (f"{lane[0]}{number}." + "." * LIMIT).encode()[: max(size, 6)]
            put[lane].append(frame)
            outbox.put(lane, frame)
        assert outbox.size == sum(map(len, put["system"] + put["control"]))
        messages = await drain(outbox)
        assert all(len(message) <= LIMIT for message in messages)
        assert b"".join(messages) == b"".join(put["system"] + put["control"])
        assert outbox.size == 0

    run(go)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0.1, 10)), min_size=1, max_size=20))
def test_requests_whose_time_is_over_are_not_sent_and_others_say_what_is_left(asks: list[tuple[float, float]]) -> None:
    async def go() -> None:
        now, sent = 5.0, list[int]()
        outbox = Outbox("x", lambda: now, frames.CONTROL_LIMIT, sent.append)
        one, other = Connection(hello(LOW), registry()), Connection(hello(HIGH), registry())
        list(other.receive(one.hello()))
        expected = []
        for deadline, _ in asks:
            question = one.ask("a", Double(1))
            outbox.ask("control", question, deadline)
            if deadline > now:
                expected.append((question.number, int((deadline - now) * 1000) / 1000))
        got = [event for message in await drain(outbox) for event in other.receive(message)]
        assert [(event.number, event.remaining) for event in got] == expected  # type: ignore[union-attr]
        assert sent == [number for number, _ in expected]

    run(go)


async def test_each_lane_is_bounded_in_frames_and_bytes() -> None:
    outbox = Outbox("x", trio.current_time, LIMIT)
    for _ in range(LIMIT_FRAMES):
        outbox.put("control", b"x")
    with pytest.raises(QueueFull, match="control"):
        outbox.put("control", b"x")
    outbox.put("system", b"x" * LIMIT_BYTES)
    with pytest.raises(QueueFull, match="system"):
        outbox.put("system", b"x")


async def test_a_pong_goes_before_everything_and_only_the_newest() -> None:
    outbox = Outbox("x", trio.current_time, LIMIT)
    outbox.put("system", b"system")
    for number in range(1000):
        outbox.put_urgent("pong", b"pong %d;" % number)
    assert await outbox.take() == b"pong 999;system"


async def test_who_waits_for_room_or_for_something_is_let_go_at_the_end(autojump_clock: object) -> None:
    outbox = Outbox("x", trio.current_time, LIMIT)
    outbox.put("control", b"x" * LIMIT)
    let_go = []

    async def wait() -> None:
        await outbox.room()
        let_go.append(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(1)
        assert not let_go
        assert await outbox.take()
        await trio.sleep(1)
        assert let_go
        nursery.start_soon(outbox.take)
        await trio.sleep(1)
        outbox.close()
