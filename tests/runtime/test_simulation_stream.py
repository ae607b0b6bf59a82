"""Streams over the simulated network behave as TCP's do: FIN, reset, a crash without a word, a full window."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.simulation import Listeners, Network, SimulatedStream, connect, dial, listen
from runtime.simulation.stream import WINDOW
from tests.runtime.test_simulation_network import play


def test_it_is_a_stream_as_trio_understands_it() -> None:
    async def script(network: Network, nursery: trio.Nursery) -> None:
        async def make() -> tuple[SimulatedStream, SimulatedStream]:
            return connect(network, "a", "b")

        await trio.testing.check_half_closeable_stream(make, None)

    play(script)


@given(st.lists(st.binary(min_size=0, max_size=5000), max_size=20), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_bytes_arrive_whole_and_in_order(parts: list[bytes], seed: int) -> None:
    async def script(network: Network, nursery: trio.Nursery) -> bytes:
        here, there = connect(network, "a", "b")

        async def send() -> None:
            for part in parts:
                await here.send_all(part)
            await here.send_eof()

        nursery.start_soon(send)
        heard = b""
        while data := await there.receive_some(700):
            heard += data
        return heard

    assert play(script, seed=seed) == b"".join(parts)


def test_a_sender_waits_while_nobody_reads() -> None:
    async def script(network: Network, nursery: trio.Nursery) -> None:
        here, there = connect(network, "a", "b")
        with trio.move_on_after(60) as waited:
            await here.send_all(bytes(2 * WINDOW))
        assert waited.cancelled_caught
        read = 0
        while read < WINDOW:
            read += len(await there.receive_some())
        await trio.sleep(1)
        await here.wait_send_all_might_not_block()

    play(script)


def test_a_fin_ends_one_direction() -> None:
    async def script(network: Network, nursery: trio.Nursery) -> None:
        here, there = connect(network, "a", "b")
        await here.send_all(b"last")
        await here.send_eof()
        assert await there.receive_some() == b"last"
        assert await there.receive_some() == b""
        await there.send_all(b"answer")
        assert await here.receive_some() == b"answer"
        with pytest.raises(trio.ClosedResourceError):
            await here.send_all(b"more")

    play(script)


def test_a_reset_is_heard_at_the_other_end() -> None:
    async def script(network: Network, nursery: trio.Nursery) -> None:
        here, there = connect(network, "a", "b")
        await here.send_all(b"unread")
        here.reset()
        await trio.sleep(1)
        with pytest.raises(trio.BrokenResourceError):
            await there.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await there.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await here.receive_some()

    play(script)


def test_who_has_closed_answers_with_a_reset() -> None:
    async def script(network: Network, nursery: trio.Nursery) -> None:
        here, there = connect(network, "a", "b")
        await there.aclose()
        assert await here.receive_some() == b""
        await here.send_all(b"are you there?")
        await trio.sleep(1)
        with pytest.raises(trio.BrokenResourceError):
            await here.send_all(b"?")

    play(script)


def test_a_crash_is_silent_until_somebody_speaks() -> None:
    async def script(network: Network, nursery: trio.Nursery) -> None:
        here, there = connect(network, "a", "b")
        there.vanish()
        with trio.move_on_after(3600) as waited:
            await here.receive_some()
        assert waited.cancelled_caught, "no FIN, no reset"
        await here.send_all(b"hello?")
        with pytest.raises(trio.BrokenResourceError):
            await here.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await there.receive_some()

    play(script)


def test_a_link_that_is_cut_breaks_a_connection_that_has_something_to_say() -> None:
    async def script(network: Network, nursery: trio.Nursery) -> None:
        talking, _ = connect(network, "a", "b")
        silent, listening = connect(network, "a", "b")
        network.cut("a", "b")
        await talking.send_all(b"x")
        await trio.sleep(20)
        with pytest.raises(trio.BrokenResourceError):
            await talking.send_all(b"y")
        network.heal("a", "b")
        await silent.send_all(b"still here")
        assert await listening.receive_some() == b"still here"

    play(script)


def test_dialing_finds_who_listens() -> None:
    async def script(network: Network, nursery: trio.Nursery) -> None:
        listeners = Listeners()
        async with listen(listeners, "b", 80) as listener:
            with pytest.raises(OSError, match="in use"):
                listen(listeners, "b", 80)
            here = await dial(network, listeners, "a", "b", 80)
            there = await listener.accept()
            await here.send_all(b"hello")
            assert await there.receive_some() == b"hello"
            assert (there.local, there.remote) == ("b", "a")
        with pytest.raises(ConnectionRefusedError):
            await dial(network, listeners, "a", "b", 80)
        listeners.dark["b"] = None
        with pytest.raises(TimeoutError):
            await dial(network, listeners, "a", "b", 80)

    play(script)


def test_a_listener_takes_no_more_than_its_backlog() -> None:
    async def script(network: Network, nursery: trio.Nursery) -> None:
        listeners = Listeners()
        listener = listen(listeners, "b", 80, backlog=2)
        waiting = [await dial(network, listeners, "a", "b", 80) for _ in range(2)]
        with pytest.raises(ConnectionRefusedError):
            await dial(network, listeners, "a", "b", 80)
        await listener.aclose()
        await trio.sleep(1)
        for stream in waiting:
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()

    play(script)


def test_what_a_kernel_closes_is_heard_to_its_end() -> None:
    """As a process is killed: what it sent arrives, then a FIN, which is a reset only if it has not read everything."""

    async def script(network: Network, nursery: trio.Nursery) -> None:
        here, there = connect(network, "a", "b")
        assert here.send_at_once(b"last words")
        here.close()
        assert here.over
        with pytest.raises(trio.ClosedResourceError):
            here.send_at_once(b"more")
        await trio.sleep(5.0)
        assert there.take_at_once() == b"last words"
        assert there.take_at_once() == b""
        assert await there.receive_some() == b""

        one, other = connect(network, "a", "b")
        await other.send_all(b"not read")
        await trio.sleep(5.0)
        one.close()
        with pytest.raises(trio.BrokenResourceError):
            await other.receive_some()

    play(script)


def test_what_has_no_room_is_not_sent_at_once() -> None:
    async def script(network: Network, nursery: trio.Nursery) -> None:
        here, there = connect(network, "a", "b")
        assert here.send_at_once(bytes(WINDOW))
        assert not here.send_at_once(b"x")
        await trio.sleep(5.0)
        assert len(await there.receive_some()) == WINDOW
        await trio.sleep(5.0)
        assert here.send_at_once(b"x")

    play(script)


def test_a_listener_of_a_process_that_is_gone_leaves_its_port() -> None:
    async def script(network: Network, nursery: trio.Nursery) -> None:
        listeners = Listeners()
        before = listen(listeners, "b", 1)
        here = await dial(network, listeners, "a", "b", 1)
        before.abandon()
        with pytest.raises(trio.BrokenResourceError):
            await here.receive_some()
        with pytest.raises(ConnectionRefusedError):
            await dial(network, listeners, "a", "b", 1)
        after = listen(listeners, "b", 1)
        before.abandon()
        await dial(network, listeners, "a", "b", 1)
        await after.accept()

    play(script)
