"""The elector under a simulated clock: what a leader consists of starts and stops with its lease."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

import pytest
import trio
import trio.testing

from runtime import Actor, Message, Spec
from runtime.elector import LEADER, NAME, Elector, LeaseChanged, elector
from runtime.lease import Candidate, Granted, Held, NotLeading, Term
from runtime.office import Office
from tests.runtime.parts import simulated

TTL, MARGIN = 9.0, 1.0


class Away(Exception):
    """The store does not answer."""


@dataclass
class Lease:
    """The one row, and what goes wrong with it."""

    epoch: int = 0
    who: Candidate | None = None
    expires_at: float = 0.0
    #: Boots whose requests fail, and those whose requests are done but not answered.
    away: set[UUID] = field(default_factory=set)
    mute: set[UUID] = field(default_factory=set)

    async def _reach(self, boot: UUID) -> None:
        await trio.sleep(0.01)
        if boot in self.away:
            raise Away("away")

    async def _answer(self, boot: UUID) -> None:
        await trio.sleep(0.01)
        if boot in self.mute:
            await trio.sleep_forever()

    async def acquire(self, candidate: Candidate, *, ttl: float, above: int) -> Granted | Held:
        await self._reach(candidate.boot)
        now, held = trio.current_time(), self.who
        answer: Granted | Held
        if held is None or self.expires_at < now or held.boot == candidate.boot:
            self.epoch = max(self.epoch, above) + 1
            self.who, self.expires_at = candidate, now + ttl
            answer = Granted(self.epoch)
        else:
            answer = Held(self.epoch, held.host, self.expires_at - now)
        await self._answer(candidate.boot)
        return answer

    def holds(self, term: Term) -> bool:
        return (
            self.who is not None
            and (self.who.boot, self.epoch) == (term.boot, term.epoch)
            and self.expires_at > trio.current_time()
        )

    async def renew(self, term: Term) -> bool:
        await self._reach(term.boot)
        renewed = self.holds(term)
        if renewed:
            self.expires_at = trio.current_time() + term.ttl
        await self._answer(term.boot)
        return renewed

    async def resign(self, term: Term) -> None:
        await self._reach(term.boot)
        if self.holds(term):
            self.expires_at = 0.0
        await self._answer(term.boot)


class Memory:
    def __init__(self, epoch: int = 0) -> None:
        self.epoch = epoch
        self.broken = False

    @property
    def highest(self) -> int:
        return self.epoch

    async def load(self) -> int:
        if self.broken:
            raise OSError("read-only")
        return self.epoch

    async def keep(self, epoch: int) -> None:
        if self.broken:
            raise OSError("read-only")
        self.epoch = epoch


class Worker(Actor):
    """A leader's actor: acts all the time, each time after a look at its office."""

    def __init__(self, host: Host, office: Office) -> None:
        self._host = host
        self._office = office

    async def init(self) -> None:
        if self._host.broken:
            raise RuntimeError("broken")
        if self._host.slow:
            await trio.sleep(self._host.slow)
        self._host.offices.append(self._office)
        self.ctx.effect(self._work, name="work", deadline=None)

    async def _work(self) -> None:
        try:
            while True:
                term = self._office.term()
                self._host.acts.append((trio.current_time(), term.epoch))
                await trio.sleep(0.25)
        except NotLeading:
            await trio.sleep_forever()

    async def receive(self, message: Message) -> None:
        raise AssertionError(message)


@dataclass
class Host:
    number: int
    lease: Lease
    memory: Memory = field(default_factory=Memory)
    broken: bool = False
    slow: float = 0.0
    offices: list[Office] = field(default_factory=list)
    #: When it acted as a leader, and of which epoch.
    acts: list[tuple[float, int]] = field(default_factory=list)
    made: int = 0

    @property
    def candidate(self) -> Candidate:
        return Candidate(UUID(int=self.number), 1, UUID(int=100 + self.number))

    def spec(self) -> Spec:
        def leader(office: Office) -> list[Spec]:
            self.made += 1
            return [Spec("worker", functools.partial(Worker, self, office))]

        return elector(lambda: Elector(self.lease, self.candidate, self.memory, leader, ttl=TTL, margin=MARGIN))

    @property
    def leads(self) -> bool:
        try:
            return bool(self.offices) and bool(self.offices[-1].term())
        except NotLeading:
            return False


@asynccontextmanager
async def hosts(lease: Lease, count: int, prepare: Callable[[Host], None] = lambda _: None) -> AsyncIterator[list]:
    found = []
    async with AsyncExitStack() as stack:
        for number in range(1, count + 1):
            host = Host(number, lease)
            prepare(host)
            system = await stack.enter_async_context(simulated())
            await system.start(host.spec())
            found.append((host, system))
        yield found


def alternate(acts: list[list[tuple[float, int]]]) -> None:
    """Check that no two acted in the same stretch of time: in the order of time epochs never fall."""
    merged = sorted(act for of_one in acts for act in of_one)
    epochs = [epoch for _, epoch in merged]
    assert epochs == sorted(epochs)


async def test_a_single_one_leads_at_once_and_goes_on(autojump_clock: trio.testing.MockClock) -> None:
    lease = Lease()
    async with hosts(lease, 1) as [(host, system)]:
        await trio.sleep(0.1)
        assert host.leads
        await trio.sleep(300)
        assert host.leads
        assert {epoch for _, epoch in host.acts} == {1}
        assert host.memory.epoch == 1
        assert system.lookup("worker") is not None
    # And gives it back at its end.
    assert lease.expires_at == 0.0


async def test_another_follows_when_one_is_cut_off_and_never_both_act(autojump_clock: trio.testing.MockClock) -> None:
    lease = Lease()
    async with hosts(lease, 3) as found:
        for faults in ("away", "mute") * 4:
            await trio.sleep(20)
            (leader,) = [(host, system) for host, system in found if host.leads]
            host, system = leader
            getattr(lease, faults).add(host.candidate.boot)
            await trio.sleep(30)
            assert not host.leads
            assert system.lookup(LEADER) is system.lookup("worker") is None
            assert len([one for one, _ in found if one.leads]) == 1
            getattr(lease, faults).clear()
        alternate([host.acts for host, _ in found])
        assert lease.epoch >= 9
        await trio.sleep(20)
        assert {host.memory.epoch for host, _ in found} == {lease.epoch}


async def test_an_error_ends_a_term_long_before_its_deadline(autojump_clock: trio.testing.MockClock) -> None:
    lease = Lease()
    async with hosts(lease, 1) as [(host, system)]:
        await trio.sleep(1)
        lease.away.add(host.candidate.boot)
        await trio.sleep(TTL / 3 + 0.1)
        assert not host.leads
        assert system.lookup("worker") is None
        lease.away.clear()
        await trio.sleep(4)
        assert host.leads
        assert host.offices[-1].term().epoch == 2


async def test_a_refused_transaction_ends_the_term_at_once(autojump_clock: trio.testing.MockClock) -> None:
    lease = Lease()
    async with hosts(lease, 1) as [(host, system)]:
        await trio.sleep(1)
        host.offices[-1].doubt("epoch 7 has begun")
        with pytest.raises(NotLeading, match="epoch 7 has begun"):
            host.offices[-1].term()
        await trio.sleep(0.01)
        assert system.lookup("worker") is None
        await trio.sleep(2)
        assert host.leads


async def test_who_was_paused_does_not_act_when_it_goes_on(autojump_clock: trio.testing.MockClock) -> None:
    lease = Lease()
    async with hosts(lease, 1) as [(host, _)]:
        await trio.sleep(1)
        autojump_clock.jump(TTL)
        # Nothing has run since: its own clock says so before any timer or answer does.
        with pytest.raises(NotLeading, match="deadline"):
            host.offices[-1].term()
        await trio.sleep(5)
        assert host.leads
        alternate([host.acts])
        assert {epoch for _, epoch in host.acts} == {1, 2}


async def test_a_start_that_lasts_longer_than_the_term_is_undone(autojump_clock: trio.testing.MockClock) -> None:
    lease = Lease()

    def prepare(host: Host) -> None:
        host.slow = 5.0

    async with hosts(lease, 1, prepare) as [(host, system)]:
        await trio.sleep(1)
        assert system.lookup("worker") is not None
        lease.who = Candidate(UUID(int=9), 1, UUID(int=9))  # taken away by an operator, say
        lease.epoch = 7
        await trio.sleep(3)
        assert host.offices == []
        assert system.lookup(LEADER) is None
        await trio.sleep(30)
        assert host.leads
        assert host.offices[-1].term().epoch == 8


async def test_who_cannot_start_its_actors_leaves_it_to_another(autojump_clock: trio.testing.MockClock) -> None:
    lease = Lease()

    def prepare(host: Host) -> None:
        host.broken = True

    async with hosts(lease, 2, prepare) as [(broken, _), (sound, _)]:
        await trio.sleep(60)
        assert broken.made >= 2
        assert sound.made >= 2
        sound.broken = False
        await trio.sleep(60)
        assert not broken.leads
        assert sound.leads


async def test_epochs_that_were_seen_before_are_exceeded(autojump_clock: trio.testing.MockClock) -> None:
    lease = Lease(epoch=2)

    def prepare(host: Host) -> None:
        host.memory.epoch = 40

    async with hosts(lease, 1, prepare) as [(host, _)]:
        await trio.sleep(1)
        assert host.offices[-1].term().epoch == 41
        assert host.memory.epoch == 41


async def test_a_host_that_cannot_keep_the_epoch_leads_all_the_same(autojump_clock: trio.testing.MockClock) -> None:
    def prepare(host: Host) -> None:
        host.memory.broken = True

    async with hosts(Lease(), 1, prepare) as [(host, _)]:
        await trio.sleep(1)
        assert host.leads


async def test_a_hint_saves_the_wait(autojump_clock: trio.testing.MockClock) -> None:
    lease = Lease()
    async with hosts(lease, 2) as [(one, first), (two, second)]:
        await trio.sleep(20)
        leader, system, other = (one, first, second) if one.leads else (two, second, first)
        await system.stop(NAME)
        other.name(NAME).tell(LeaseChanged())
        await trio.sleep(0.3)
        assert not leader.leads
        assert (two if leader is one else one).leads
