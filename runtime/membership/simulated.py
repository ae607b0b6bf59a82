"""Membership of many hosts over the simulated network: real drivers, real bytes, a clock that jumps.

Connections are made when something is sent. They break as TCP's do: a stall resets them, a machine that is off is
silent until the sender gives up, one without the process refuses.
"""

from __future__ import annotations

import heapq
import random as stdlib_random
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from uuid import UUID

import trio

from runtime.errors import ActorError
from runtime.membership.driver import NAME, Announce, Arrived, Depart, Failed, Membership, Transport, membership
from runtime.membership.events import Kind, Member, Notice, Peer, Superseded
from runtime.membership.machine import DEFAULTS
from runtime.membership.rules import Rules
from runtime.message import Message
from runtime.simulation.environment import HostEnvironment
from runtime.simulation.network import Network, Pipe
from runtime.system import System

#: Messages that may be under way in one direction of a connection; more are dropped.
UNDER_WAY = 128
#: Seconds until a machine that does not answer is given up on.
CONNECT_TIMEOUT = 3.0
#: Bytes that a frame costs beside its payload: a websocket's masked header, TLS's record, header and tag.
FRAME_BYTES = 8 + 22


@dataclass(slots=True)
class _Connection:
    pipe: Pipe
    life: int
    under_way: int = 0


@dataclass(slots=True)
class Host:
    """One machine. ``life`` grows with each start of its process."""

    number: int
    name: str
    id: UUID
    env: HostEnvironment
    life: int = 0
    running: bool = False
    dark: bool = False
    sent_bytes: int = 0
    sent: int = 0
    dropped: int = 0
    connects: int = 0
    machine: Membership | None = None
    system: System | None = None
    ended: trio.Event = field(default_factory=trio.Event)
    connections: dict[str, _Connection] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Where it is reached."""
        return f"{self.name}:7070"

    def tell(self, message: Message) -> None:
        """Tell its driver; a message that finds no room is lost."""
        if self.running and self.system is not None and (ref := self.system.lookup(NAME)) is not None:
            try:
                ref.tell(message)
            except ActorError:
                self.dropped += 1


class SimulatedLinks(Transport):
    """What one life of a host sends through."""

    def __init__(self, crowd: Crowd, host: Host) -> None:
        self._crowd = crowd
        self._host = host
        self._life = host.life

    def send(self, peer: Peer, data: bytes) -> None:
        """Send to a host that the crowd knows; see `Transport`."""
        host, crowd = self._host, self._crowd
        target = crowd.by_id.get(peer.host) if peer.host is not None else crowd.by_address.get(peer.address)
        if target is None or host.life != self._life or not host.running:
            return
        connection = host.connections.get(target.name)
        if connection is None:
            connection = self._connect(target)
        if connection.under_way >= UNDER_WAY:
            host.dropped += 1
            return
        connection.under_way += 1
        host.sent += 1
        host.sent_bytes += len(data) + FRAME_BYTES
        sender = Peer(host.id, "")
        made = connection

        def deliver() -> None:
            made.under_way -= 1
            if target.dark:
                self._crowd.network.schedule(
                    trio.current_time() + CONNECT_TIMEOUT, None, lambda: self._broke(target, made, refused=False)
                )
            elif not target.running or target.life != made.life:
                refused = not target.running
                back = crowd.network.pipe(target.name, host.name)

                def answer() -> None:
                    back.close()
                    self._broke(target, made, refused=refused)

                back.send(answer)
            else:
                target.tell(Arrived(sender, data))

        connection.pipe.send(deliver)

    def _connect(self, target: Host) -> _Connection:
        host = self._host

        def lost() -> None:
            self._broke(target, connection, refused=False)

        pipe = self._crowd.network.pipe(host.name, target.name, lost)
        connection = host.connections[target.name] = _Connection(pipe, target.life)
        host.connects += 1
        return connection

    def _broke(self, target: Host, connection: _Connection, *, refused: bool) -> None:
        host = self._host
        if host.life == self._life and host.connections.get(target.name) is connection:
            del host.connections[target.name]
            connection.pipe.close()
            host.tell(Failed(Peer(target.id, target.address), refused))


@dataclass(frozen=True, slots=True)
class Heard:
    """A notice given at one host."""

    at: float
    by: int
    kind: Kind
    about: int
    generation: int


class Crowd:
    """Hosts with numbers. ``heard`` are all notices so far, in order."""

    def __init__(self, network: Network, nursery: trio.Nursery, *, seed: int = 0, rules: Rules = DEFAULTS) -> None:
        self.network = network
        self.hosts: dict[int, Host] = {}
        self.by_id: dict[UUID | None, Host] = {}
        self.by_address: dict[str, Host] = {}
        self.heard: list[Heard] = []
        self.superseded: Counter[int] = Counter()
        self._behind: Host | None = None
        self._nursery = nursery
        self._seed = seed
        self._rules = rules

    def host(self, number: int) -> Host:
        """Return a host; it is made when it is first asked for."""
        found = self.hosts.get(number)
        if found is None:
            name = f"h{number}"
            env = HostEnvironment(self._seed * 1_000_003 + number)
            found = self.hosts[number] = Host(number, name, UUID(int=number + 1), env)
            self.by_id[found.id] = self.by_address[found.address] = found
        return found

    # --- verbs

    async def start(self, number: int, seeds: Sequence[int] = (), *, meta: bytes = b"") -> None:
        """Start a host's process, under the next generation, and return once it runs."""
        host = self.host(number)
        host.life += 1
        host.dark, host.running = False, True
        host.ended = trio.Event()
        addresses = [self.host(seed).address for seed in seeds]
        await self._nursery.start(self._run, host, addresses, meta)

    def end(self, number: int) -> None:
        """Let its process end without a word: its machine refuses connections from now on."""
        host = self.host(number)
        host.running = False
        host.machine = None
        for connection in host.connections.values():
            connection.pipe.close()
        host.connections.clear()
        host.ended.set()

    def crash(self, number: int) -> None:
        """Let its machine lose power: it is silent from now on."""
        self.end(number)
        self.host(number).dark = True

    def pause(self, number: int) -> None:
        """Stop its processes, as SIGSTOP does, until `resume`."""
        host = self.host(number)
        host.env.hold()
        self.network.hold(host.name)

    def resume(self, number: int) -> None:
        """Let its processes go on."""
        host = self.host(number)
        host.env.release()
        self.network.release(host.name)

    async def leave(self, number: int) -> None:
        """Let it say that it leaves, and end once that is on its way."""
        host = self.host(number)
        assert host.system is not None
        await host.system.name(NAME).ask(Depart(), timeout=5.0)
        await trio.sleep(0.5)
        self.end(number)

    def announce(self, number: int, meta: bytes) -> None:
        """Change a host's metadata."""
        self.host(number).tell(Announce(meta))

    def partition(self, one: Sequence[int], other: Sequence[int]) -> None:
        """Let nothing through between two groups, either way, until the network heals."""
        for a in one:
            for b in other:
                self.network.cut(f"h{a}", f"h{b}")
                self.network.cut(f"h{b}", f"h{a}")

    # --- what is known

    @property
    def running(self) -> list[Host]:
        """Return the hosts whose process runs."""
        return [host for host in self.hosts.values() if host.running]

    def view(self, number: int) -> dict[int, Member]:
        """Return whom a host knows."""
        machine = self.host(number).machine
        if machine is None:
            return {}
        return {self.by_id[member.host].number: member for member in machine.members()}

    def agree(self) -> bool:
        """Tell whether each host that runs sees exactly those that run, in their present life, and none suspect."""
        wanted = {host.id: host.life for host in self.running}
        # First the one that did not agree last time: of a thousand nearly all do, long before the last one does.
        for host in sorted(self.running, key=lambda host: host is not self._behind):
            assert host.machine is not None
            seen = {member.host: member.generation for member in host.machine.members() if member.state == 0}
            seen[host.id] = host.life
            if seen != wanted or any(member.state == 1 for member in host.machine.members()):
                self._behind = host
                return False
        return True

    async def agreed(self, within: float, every: float = 0.1) -> float:
        """Wait until all agree; return the seconds that took. Raises `trio.TooSlowError`."""
        began = trio.current_time()
        with trio.fail_after(within):
            while not self.agree():  # noqa: ASYNC110 - looked at from outside: nothing tells
                await trio.sleep(every)
        return trio.current_time() - began

    def told(self, kind: Kind, about: int, since: float = 0.0) -> dict[int, float]:
        """Return who was given that notice of a host since then, and when first."""
        found: dict[int, float] = {}
        for heard in islice(self.heard, bisect_left(self.heard, since, key=lambda heard: heard.at), None):
            if heard.kind == kind and heard.about == about:
                found.setdefault(heard.by, heard.at)
        return found

    # --- the process

    async def _run(self, host: Host, seeds: list[str], meta: bytes, task_status: trio.TaskStatus[None]) -> None:
        life = host.life
        number = host.number

        def heard(notice: Notice | Superseded) -> None:
            if isinstance(notice, Superseded):
                self.superseded[number] += 1
            elif host.life == life:
                about = self.by_id[notice.member.host].number
                self.heard.append(Heard(trio.current_time(), number, notice.kind, about, notice.member.generation))

        def make() -> Membership:
            links = SimulatedLinks(self, host)
            made = Membership(host.id, life, host.address, links, heard, seeds=seeds, meta=meta, rules=self._rules)
            if host.life == life:
                host.machine = made
            return made

        async with System(host.env) as system:
            host.system = system
            ended = host.ended
            await system.start(membership(make))
            task_status.started()
            await ended.wait()


async def stalling(
    network: Network, names: Sequence[str], share: float, chance: stdlib_random.Random, *, mean: float = 3.0
) -> None:
    """Let each connection between two hosts stall for ``share`` of the time, in stalls of 0.5 to 1.5 times ``mean`` s.

    Both ways; a stall ends with a reset. Runs until cancelled.
    """
    gap = mean * (1 - share) / share
    pairs = [(one, other) for place, one in enumerate(names) for other in names[place + 1 :]]
    # So that the share holds from the start on.
    heap = [(trio.current_time() + chance.random() * (gap + mean), number) for number in range(len(pairs))]
    heapq.heapify(heap)
    while heap:
        at, number = heapq.heappop(heap)
        await trio.sleep_until(at)
        one, other = pairs[number]
        seconds = mean * (0.5 + chance.random())
        network.stall(one, other, seconds)
        network.stall(other, one, seconds)
        heapq.heappush(heap, (at + seconds + gap * (0.5 + chance.random()), number))
