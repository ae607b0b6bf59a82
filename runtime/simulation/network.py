"""A network between hosts, known by their names: one task, one heap of what is to be delivered when.

Everything travels in pipes: a pipe is one direction of one connection, and what is sent into it arrives in order or not
at all. What happens to a link (the way from one host to another) happens to all pipes on it. Loss of packets is a
stall to TCP, and a reset after it; a cut that ends in time is nothing but a delay.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import trio

T = TypeVar("T")

#: Seconds after which data that nobody acknowledged resets its connection (as tcp_user_timeout does).
USER_TIMEOUT = 15.0


@dataclass(frozen=True, slots=True)
class Delay:
    """How long something takes on its way: ``least`` seconds and an exponential rest of ``mean`` seconds more.

    ``most`` bounds the whole.
    """

    least: float = 0.0002
    mean: float = 0.0005
    most: float = 2.0

    def draw(self, chance: random.Random) -> float:
        """Return one delay in seconds."""
        rest = -self.mean * math.log(1.0 - chance.random()) if self.mean > 0 else 0.0
        return min(self.most, self.least + rest)


class Lost(Exception):
    """A request got no answer. ``sent`` False: it surely was not carried out; True: nobody knows."""

    def __init__(self, why: str, *, sent: bool) -> None:
        super().__init__(why)
        self.sent = sent


Link = tuple[str, str]


class Pipe:
    """One direction of one connection. ``lost`` is called once if it is reset by the network."""

    __slots__ = ("_backlog", "_lost", "_network", "_newest", "closed", "source", "stuck_at", "target")

    def __init__(self, network: Network, source: str, target: str, lost: Callable[[], None]) -> None:
        self.source = source
        self.target = target
        self.closed = False
        #: Since when something waits in it that the link does not let through; None while nothing does.
        self.stuck_at: float | None = None
        self._network = network
        self._lost = lost
        self._newest = 0.0
        self._backlog: deque[Callable[[], None]] = deque()

    def send(self, deliver: Callable[[], None]) -> None:
        """Have ``deliver`` called at the other end, after all that was sent before. It must not raise or block."""
        if not self.closed:
            self._newest = max(self._newest, self._network.arrival(self.source, self.target))
            self._network.schedule(self._newest, self, deliver)

    def close(self) -> None:
        """Forget it, and whatever is still in it."""
        self.closed = True
        self._backlog.clear()
        self._network.forget(self)

    def reset(self) -> None:
        """Lose what is in it, and tell."""
        if not self.closed:
            self.close()
            self._lost()

    # --- for the network

    def arrive(self, deliver: Callable[[], None]) -> None:
        """Deliver, or keep it in the backlog: the link lets nothing through, or what came before still waits."""
        if self.closed:
            return
        blocked = self._network.blocked(self.source, self.target)
        if not blocked and not self._backlog:
            deliver()
            return
        self._backlog.append(deliver)
        if blocked:
            self._stick()

    def flush(self) -> None:
        """Send what waits once more: the link lets it through again."""
        if self._backlog:
            self.stuck_at = None
            self._network.schedule(self._network.arrival(self.source, self.target), None, self._drain)

    def _drain(self) -> None:
        if self._network.blocked(self.source, self.target):
            if self._backlog:
                self._stick()
            return
        while self._backlog:
            self._backlog.popleft()()

    def _stick(self) -> None:
        if self.stuck_at is None:
            self.stuck_at = trio.current_time()
            self._network.give_up_later(self, self.stuck_at)


class Network:
    """Links between hosts. All of them work, with ``delay``, until something is done to them."""

    def __init__(self, chance: random.Random, delay: Delay = Delay(), *, user_timeout: float = USER_TIMEOUT) -> None:
        self.delivered = 0
        self._chance = chance
        self._delay = delay
        self._user_timeout = user_timeout
        self._delays: dict[Link, Delay] = {}
        self._heap: list[tuple[float, int, Pipe | None, Callable[[], None]]] = []
        self._sequence = 0
        self._sleep: trio.CancelScope | None = None
        # Ordered, so that what happens to all happens in one order. The value counts who blocks it.
        self._pipes: dict[Link, dict[Pipe, None]] = {}
        self._cut: dict[Link, None] = {}
        self._stalled: dict[Link, int] = {}
        self._held: dict[str, int] = {}
        self._held_links: dict[Link, int] = {}

    # --- verbs

    def delay(self, source: str, target: str, delay: Delay | None) -> None:
        """Let what goes from ``source`` to ``target`` take so long from now on; None: as everything else."""
        if delay is None:
            self._delays.pop((source, target), None)
        else:
            self._delays[source, target] = delay

    def cut(self, source: str, target: str) -> None:
        """Let nothing through from ``source`` to ``target``, until `heal`. The other way is a link of its own."""
        self._cut[source, target] = None

    def heal(self, source: str, target: str) -> None:
        """Undo `cut`: what still waits arrives, as TCP sends it again."""
        if self._cut.pop((source, target), self) is None:
            self._flush((source, target))

    def heal_all(self) -> None:
        """Undo every `cut` and every `delay`."""
        self._delays.clear()
        for source, target in tuple(self._cut):
            self.heal(source, target)

    def stall(self, source: str, target: str, seconds: float) -> None:
        """Let nothing through for so long, then reset the connections that had something to say: loss, as TCP sees it.

        The answers to what gets through the other way are not stalled.
        """
        link = (source, target)
        self._stalled[link] = self._stalled.get(link, 0) + 1

        def over() -> None:
            self._stalled[link] -= 1
            if self._stalled[link]:
                return
            del self._stalled[link]
            for pipe in tuple(self._pipes.get(link, ())):
                if pipe.stuck_at is not None:
                    pipe.reset()

        self.schedule(trio.current_time() + seconds, None, over)

    def hold(self, host: str) -> None:
        """Keep everything that comes from or goes to a host, without any reset, until `release`."""
        self._held[host] = self._held.get(host, 0) + 1

    def release(self, host: str) -> None:
        """Undo one `hold`."""
        left = self._held.get(host, 0) - 1
        if left > 0:
            self._held[host] = left
        elif left == 0:
            del self._held[host]
            for link in tuple(self._pipes):
                if host in link:
                    self._flush(link)

    def hold_link(self, source: str, target: str) -> None:
        """Keep everything that goes from ``source`` to ``target``, without any reset, until `release_link`."""
        link = (source, target)
        self._held_links[link] = self._held_links.get(link, 0) + 1

    def release_link(self, source: str, target: str) -> None:
        """Undo one `hold_link`."""
        link = (source, target)
        left = self._held_links.get(link, 0) - 1
        if left > 0:
            self._held_links[link] = left
        elif left == 0:
            del self._held_links[link]
            self._flush(link)

    def reset(self, one: str, other: str) -> None:
        """Reset every connection between two hosts."""
        for link in ((one, other), (other, one)):
            for pipe in tuple(self._pipes.get(link, ())):
                pipe.reset()

    def blocked(self, source: str, target: str) -> bool:
        """Whether nothing gets through that way now."""
        link = (source, target)
        return link in self._cut or link in self._stalled or self._is_held(source, target)

    def _is_held(self, source: str, target: str) -> bool:
        return source in self._held or target in self._held or (source, target) in self._held_links

    # --- pipes

    def pipe(self, source: str, target: str, lost: Callable[[], None] = lambda: None) -> Pipe:
        """Open one direction of a connection. ``lost`` is called if the network resets it."""
        pipe = Pipe(self, source, target, lost)
        self._pipes.setdefault((source, target), {})[pipe] = None
        return pipe

    async def call(self, source: str, target: str, work: Callable[[], T], *, serve: Delay | None = None) -> T:
        """Have ``work`` done at ``target`` at one moment, and return what it returns there or raise what it raises.

        ``serve`` is how long that takes there, beforehand. Raises `Lost`. A caller that is cancelled does not know
        whether it is done: what is on its way arrives nevertheless.
        """
        answer: list[Callable[[], T]] = []
        arrived = trio.Event()
        done = False

        def lose(why: str) -> Callable[[], None]:
            def lost() -> None:
                error = Lost(f"{why} {source} -> {target}", sent=done)
                answer.append(lambda: _raise(error))
                arrived.set()

            return lost

        request = self.pipe(source, target, lose("request lost"))
        reply = self.pipe(target, source, lose("answer lost"))

        def execute() -> None:
            nonlocal done
            request.close()
            done = True
            try:
                result = work()
            except Exception as error:
                failure = error
                reply.send(lambda: deliver(lambda: _raise(failure)))
            else:
                reply.send(lambda: deliver(lambda: result))

        def deliver(told: Callable[[], T]) -> None:
            reply.close()
            answer.append(told)
            arrived.set()

        def begin() -> None:
            if serve is None:
                execute()
            else:
                self.schedule(trio.current_time() + serve.draw(self._chance), request, execute)

        request.send(begin)
        try:
            await arrived.wait()
        finally:
            if not answer:
                reply.close()
        request.close()
        reply.close()
        return answer[0]()

    # --- for pipes

    def arrival(self, source: str, target: str) -> float:
        """Return when something sent now arrives."""
        return trio.current_time() + self._delays.get((source, target), self._delay).draw(self._chance)

    def schedule(self, at: float, pipe: Pipe | None, deliver: Callable[[], None]) -> None:
        """Put something into the heap. Without a pipe it happens whatever the links do."""
        self._sequence += 1
        heapq.heappush(self._heap, (at, self._sequence, pipe, deliver))
        if self._sleep is not None and self._heap[0][1] == self._sequence:
            # Nothing but its end is moved: the task sleeps on, and wakes once.
            self._sleep.deadline = at

    def forget(self, pipe: Pipe) -> None:
        """A pipe was closed."""
        self._pipes.get((pipe.source, pipe.target), {}).pop(pipe, None)

    def _flush(self, link: Link) -> None:
        if not self.blocked(*link):
            for pipe in tuple(self._pipes.get(link, ())):
                if pipe.stuck_at is not None:
                    pipe.flush()

    # --- the task

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver until cancelled."""
        task_status.started()
        while True:
            self._deliver_due()
            with trio.CancelScope(deadline=self._heap[0][0] if self._heap else math.inf) as self._sleep:
                await trio.sleep_forever()
            self._sleep = None

    def _deliver_due(self) -> None:
        now = trio.current_time()
        while self._heap and self._heap[0][0] <= now:
            _, _, pipe, deliver = heapq.heappop(self._heap)
            if pipe is None:
                deliver()
                continue
            self.delivered += 1
            pipe.arrive(deliver)

    def give_up_later(self, pipe: Pipe, since: float) -> None:
        """Reset a pipe whose data is not acknowledged for too long. One that is held has no clock that runs."""

        def look() -> None:
            if pipe.stuck_at != since or pipe.closed:
                return
            if self._is_held(pipe.source, pipe.target):
                self.schedule(trio.current_time() + self._user_timeout, None, look)
            else:
                pipe.reset()

        self.schedule(since + self._user_timeout, None, look)


def _raise(error: Exception) -> T:  # type: ignore[type-var]
    raise error
