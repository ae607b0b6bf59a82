"""How soon does everybody know that a host has died, and what does it cost to know who is there?

Real state machines, drivers and bytes over a simulated network and clock: hosts and seconds are simulated, bytes and
CPU are real. What is sent counts with a websocket's and TLS's framing, without handshakes and TCP/IP. CPU is that of
this process per simulated second and host, so what simulates the network and runs the actors is in it.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import trio

from bench.question import Answer, Question
from runtime.membership.simulated import Crowd, stalling
from runtime.simulation import Network, run

#: Everybody of 100 hosts knows by then (seconds); with half of the connections stalling.
TARGET, TARGET_STALLING = 8.0, 12.0
#: Each host's metadata, and how often it changes (bytes, seconds).
META_BYTES, META_EVERY = 64, 30.0
CRASHES, CRASHES_STALLING = 8, 3
SEED = 1


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one crowd. ``joined`` until all that came at once knew each other; ``seen``: each crash, until all knew it.

    ``false``: deaths of others that were told of meanwhile. ``sent`` bytes and ``cpu`` seconds per second and host, at
    rest but for the metadata.
    """

    joined: float
    sent: float
    cpu: float
    seen: list[float]
    false: int


def ask(quick: bool) -> Iterator[Answer]:
    """Measure each; seconds, and other units where it says so."""
    hundred = measure(20 if quick else 100, crashes=1 if quick else CRASHES, rest=2.0 if quick else 60.0)
    yield Answer("100 hosts: a crash until all know it", max(hundred.seen), _notes(hundred))
    stalled = measure(20 if quick else 100, crashes=1 if quick else CRASHES_STALLING, share=0.5)
    yield Answer(
        "  half of the connections stalling",
        max(stalled.seen),
        f"target {TARGET_STALLING:g}; {_notes(stalled)}",
        apart=True,
    )
    yield Answer("chitchat, published", 10.0, "below that, 100 nodes", apart=True)
    yield Answer("  half of the connections stalling", 15.0, "below that", apart=True)
    sizes = {10: measure(10, crashes=1, rest=2.0 if quick else 60.0), 100: hundred}
    if not quick:
        sizes[1000] = measure(1000, crashes=1, rest=10.0)
    for hosts, found in sizes.items():
        if hosts != 100:
            yield Answer(f"{hosts} hosts: a crash until all know it", max(found.seen), _notes(found), apart=True)
        yield Answer(f"{hosts} hosts that come at once: all know all", found.joined, "", apart=True)
        most = {100: "target ≤ 20; chitchat 120", 1000: "target ≤ 60"}.get(hosts, "")
        yield Answer(f"{hosts} hosts: kB/s sent by each", found.sent / 1000, most, apart=True)
        yield Answer(f"{hosts} hosts: ms of CPU/s of each", found.cpu * 1000, "simulator included", apart=True)


def _notes(found: Measured) -> str:
    middle = sorted(found.seen)[len(found.seen) // 2]
    return f"worst of {len(found.seen)}; median {middle:.1f}; {found.false} false deaths"


def measure(hosts: int, *, crashes: int, rest: float = 0.0, share: float = 0.0) -> Measured:
    """Let so many hosts come at once, rest and lose some. ``share``: of the connections that stall from then on."""
    # A thousand hosts know a million things of each other, none of which is garbage: looking through all of them again
    # and again would be half of the work.
    gc.disable()
    try:
        return run(_measure, hosts, crashes, rest, share, seed=SEED, most_steps=20_000_000, longest_step=120.0)
    finally:
        gc.enable()
        gc.collect()


async def _measure(hosts: int, crashes: int, rest: float, share: float) -> Measured:
    chance = random.Random(SEED)
    network = Network(chance)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        crowd = Crowd(network, nursery, seed=SEED)
        await crowd.start(0)
        for number in range(1, hosts):
            await crowd.start(number, [0])
        joined = await crowd.agreed(120.0, 0.25)
        for number in range(hosts):
            nursery.start_soon(_talk, crowd, number, random.Random(number))
        # Until what joining left to be told has been told.
        await trio.sleep(10.0 if rest else 0.0)
        sent, cpu = sum(host.sent_bytes for host in crowd.hosts.values()), time.process_time()
        await trio.sleep(rest)
        sent = sum(host.sent_bytes for host in crowd.hosts.values()) - sent
        cpu = time.process_time() - cpu
        if share:
            nursery.start_soon(stalling, network, [host.name for host in crowd.hosts.values()], share, chance)
            await trio.sleep(5.0)
        seen = []
        quiet = len(crowd.heard)
        gone = set()
        for number in range(1, crashes + 1):
            began = trio.current_time()
            crowd.crash(number)
            gone.add(number)
            seen.append(await _seen(crowd, number, began))
            await trio.sleep(1.0 + chance.random())
        false = len({h.about for h in crowd.heard[quiet:] if h.kind == "dead" and h.about not in gone})
        nursery.cancel_scope.cancel()
    per = max(rest, 1e-9) * hosts
    return Measured(joined, sent / per, cpu / per, seen, false)


async def _seen(crowd: Crowd, number: int, began: float) -> float:
    with trio.fail_after(120.0):
        while len(told := crowd.told("dead", number, began)) < len(crowd.running):  # noqa: ASYNC110
            await trio.sleep(0.25)
    return max(told.values()) - began


async def _talk(crowd: Crowd, number: int, chance: random.Random) -> None:
    """Change a host's metadata now and then, as the load on it does."""
    await trio.sleep(META_EVERY * chance.random())
    while crowd.host(number).running:
        crowd.announce(number, chance.randbytes(META_BYTES))
        await trio.sleep(META_EVERY)


QUESTION = Question("membership", "host crashed to all others knowing it", "s", "lower", ask, target=TARGET)
