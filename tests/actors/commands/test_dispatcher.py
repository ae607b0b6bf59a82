"""The dispatcher as an actor: simulated hours with hosts that do not answer, and a store that is away or another's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from actors.commands.counts import Counts
from actors.commands.dispatcher import MOST_NOTES, SLOW_TIMER, Dispatcher, dispatcher
from actors.commands.messages import DISPATCHER, NAME, Command, CommandKind, Dispatch, Taken
from actors.commands.store import Note, Order
from actors.model.errors import Conflict, Unavailable
from runtime import Actor, AskTimeout, Message, Ref, Reply, SimulatedEnvironment, Spec, System
from runtime.lease import Fenced, Term
from runtime.links.errors import Unreachable
from runtime.office import Office
from tests.actors.commands.orders import EPOCH, order

OWN = UUID(int=1000)
TERM = Term(EPOCH, UUID(int=9), 10.0)


@dataclass
class Store:
    """What hosts have yet to do; a command that was taken is done unless the host is ``lazy``."""

    orders: dict[UUID, Order] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    fails: Callable[[], Exception | None] = lambda: None
    looks: int = 0
    writes: int = 0

    async def outstanding(self, own: UUID, term: Term, limit: int) -> tuple[Order, ...]:
        assert (own, term) == (OWN, TERM)
        self.looks += 1
        await trio.sleep(0.01)
        self._fail()
        return tuple(self.orders.values())[:limit]

    async def record(self, notes: Sequence[Note], term: Term) -> None:
        assert term == TERM
        self.writes += 1
        await trio.sleep(0.01)
        self._fail()
        self.notes += notes

    def _fail(self) -> None:
        error = self.fails()
        if error is not None:
            raise error

    def give(self, *orders: Order) -> None:
        self.orders |= {one.placement_id: one for one in orders}

    def steps(self) -> list[str]:
        return [note.step for note in self.notes]


class Host(Actor):
    """Answers commands as it is told to."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._held: list[Reply] = []

    async def receive(self, message: Message) -> None:
        assert isinstance(message, Command)
        world = self._world
        world.commands.append((trio.current_time(), message))
        answer = world.answer(message)
        if isinstance(answer, Exception):
            self.ctx.fail(answer)
        elif answer is None:
            self._held.append(self.ctx.reply_slot())
        else:
            self.ctx.reply(answer)
            if isinstance(answer, Taken) and not world.lazy:
                world.store.orders.pop(message.placement_id, None)


@dataclass
class World:
    store: Store
    system: System
    office: Office
    commands: list[tuple[float, Command]] = field(default_factory=list)
    answer: Callable[[Command], object] = lambda command: taken(command)
    lazy: bool = False
    doubts: list[str] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)

    def hint(self) -> None:
        self.system.name(DISPATCHER).tell(Dispatch("test"))

    def at(self) -> list[float]:
        return [at for at, _ in self.commands]


def taken(command: Command) -> Taken:
    return Taken(command.placement_id, command.generation, command.epoch)


@asynccontextmanager
async def world(*, linked: bool = True, orders: Sequence[Order] = ()) -> AsyncIterator[World]:
    async with System(SimulatedEnvironment()) as system:
        doubts: list[str] = []
        office = Office(TERM, float("inf"), system.env.monotonic, doubts.append)
        made = World(Store(), system, office, doubts=doubts)
        made.store.give(*orders)

        def reach(node_id: UUID) -> Ref | None:
            return system.name(NAME) if linked else None

        await system.start(Spec(NAME, lambda: Host(made), restart="temporary"))
        await system.start(dispatcher(made.store, office, OWN, reach, made.counts))
        yield made


async def until(condition: Callable[[], bool]) -> None:
    """Wait, in steps shorter than anything here takes, for what nobody announces."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.001)


async def test_a_hint_is_followed_by_a_command_and_its_steps_are_written(autojump_clock: MockClock) -> None:
    async with world() as it:
        await trio.sleep(1)
        it.store.give(order(kind=CommandKind.STOP, stop_timeout=7.0, generation=3))
        it.hint()
        await trio.sleep(1)
        ((_, command),) = it.commands
        assert command == Command(
            CommandKind.STOP,
            UUID(int=101),
            UUID(int=1),
            UUID(int=1001),
            generation=3,
            epoch=EPOCH,
            deadline=command.deadline,
            stop_timeout=7.0,
        )
        assert command.deadline > 0
        assert it.store.steps() == ["sent", "taken"]
        assert it.store.writes == 1
        assert it.counts == Counts(sent=1, taken=1, outstanding=1)
        it.hint()
        await trio.sleep(1)
        assert it.counts == Counts(sent=1, taken=1)


async def test_what_is_not_carried_out_is_said_again_with_growing_waits(autojump_clock: MockClock) -> None:
    async with world(orders=[order()]) as it:
        it.lazy = True
        await trio.sleep(600)
        gaps = [later - earlier for earlier, later in zip(it.at(), it.at()[1:], strict=False)]
        assert 8 < len(gaps) < 40
        assert min(gaps[-3:]) > 20
        assert it.store.steps() == ["sent", "taken"]
        it.store.orders.clear()
        said = len(it.commands)
        await trio.sleep(600)
        assert len(it.commands) == said


async def test_a_host_that_never_answers_costs_little_and_is_noted_once(autojump_clock: MockClock) -> None:
    async with world(orders=[order(number) for number in range(1, 30)]) as it:
        it.answer = lambda command: None
        await trio.sleep(600)
        assert it.store.steps().count("unreachable") == 29
        # After the first ones, one at a time; each takes its whole time.
        assert len(it.commands) < 16 + 600 / 10
        it.answer = taken
        await trio.sleep(60)
        assert it.store.orders == {}
        assert it.store.steps().count("taken") == 29


@pytest.mark.parametrize(
    ("error", "step"),
    [
        (Conflict("too late", code="expired"), "refused"),
        (RuntimeError("a bug there"), "refused"),
        (Unreachable("h2", "nobody listens", sent=False), "refused"),  # its own trouble, not ours with it
    ],
)
async def test_a_refusal_is_noted_with_its_reason(autojump_clock: MockClock, error: Exception, step: str) -> None:
    async with world(orders=[order()]) as it:
        it.answer = lambda command: error
        await trio.sleep(30)
        assert it.store.steps() == ["sent", step]
        assert str(error) in it.store.notes[-1].reason
        assert len(it.commands) > 2


async def test_an_actor_that_is_not_there_is_one_that_is_not_reached(autojump_clock: MockClock) -> None:
    async with world() as it:
        await it.system.stop(NAME)
        it.store.give(order())
        it.hint()
        await trio.sleep(30)
        assert it.store.steps() == ["sent", "unreachable"]


async def test_an_answer_to_another_command_counts_for_nothing(autojump_clock: MockClock) -> None:
    async with world(orders=[order()]) as it:
        it.lazy = True
        it.answer = lambda command: replace(taken(command), placement_id=UUID(int=77))
        await trio.sleep(30)
        assert it.store.steps() == ["sent"]
        assert len(it.commands) > 2
        wrong = len(it.commands)
        it.answer = taken
        await trio.sleep(60)
        assert it.store.steps() == ["sent", "taken"]
        assert (it.counts.wrong, it.counts.sent, it.counts.outstanding) == (wrong, len(it.commands), 1)
    assert it.counts.outstanding == 0


async def test_without_links_nobody_is_told_and_nothing_is_asked_for(autojump_clock: MockClock) -> None:
    async with world(linked=False, orders=[order()]) as it:
        await trio.sleep(20 * SLOW_TIMER)
        assert (it.store.looks, it.store.notes, it.commands) == (0, [], [])


async def test_an_outage_of_the_store_costs_time_only(autojump_clock: MockClock) -> None:
    async with world() as it:
        begin = trio.current_time()
        it.store.fails = lambda: Unavailable("away") if trio.current_time() - begin < 300 else None
        it.store.give(order(1), order(2))
        it.hint()
        await trio.sleep(299)
        assert it.commands == []
        assert it.store.looks < 60
        await trio.sleep(60)
        assert it.store.steps() == ["sent", "sent", "taken", "taken"]


async def test_a_leader_that_is_none_any_more_says_nothing_and_tells_who_elects(autojump_clock: MockClock) -> None:
    async with world() as it:
        it.store.fails = lambda: Fenced(TERM, "epoch 8 has begun")
        it.store.give(order())
        it.hint()
        await trio.sleep(5)
        assert len(it.doubts) == 1
        it.store.fails = lambda: None
        # Nothing revives the term, whatever the store says by now.
        await trio.sleep(600)
        assert it.commands == []


async def test_a_term_that_is_over_before_it_began_is_no_failure(autojump_clock: MockClock) -> None:
    async with System(SimulatedEnvironment()) as system:
        office = Office(TERM, float("inf"), system.env.monotonic)
        office.end("it was short")
        store = Store()
        store.give(order())
        await system.start(dispatcher(store, office, OWN, lambda node_id: system.name(NAME)))
        await trio.sleep(60)
        assert store.looks == 0
        assert system.name(DISPATCHER).alive


async def test_steps_that_cannot_be_written_are_bounded(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.commands.dispatcher.MOST_NOTES", 50)
    assert MOST_NOTES > 50
    async with world() as it:
        it.store.fails = lambda: Unavailable("away") if it.store.writes and not it.store.notes else None
        it.store.give(*(order(number, node=number % 40) for number in range(1, 200)))
        it.hint()
        await trio.sleep(60)
        actor: Dispatcher = it.system.name(DISPATCHER).current().life.actor  # type: ignore[assignment]
        assert len(actor._notes) <= 50 + 200


async def test_a_request_that_timed_out_is_told_so(autojump_clock: MockClock) -> None:
    async with world(orders=[order()]) as it:
        it.answer = lambda command: None
        await trio.sleep(10)
        (note,) = [note for note in it.store.notes if note.step == "unreachable"]
        assert note.reason == str(AskTimeout(NAME, "Command", 5.0))


async def test_steps_that_wait_are_written_before_a_leader_goes(autojump_clock: MockClock) -> None:
    async with world(orders=[order(1), order(2)]) as it:
        await until(lambda: it.counts.taken == 2)
        assert it.store.notes == []
        await it.system.stop(DISPATCHER)
        assert it.store.steps() == ["sent", "sent", "taken", "taken"]


async def test_steps_that_are_being_written_as_a_leader_goes_are_given_once_more(autojump_clock: MockClock) -> None:
    """Nobody heard whether they were written; the store finds out."""
    async with world(orders=[order()]) as it:
        await until(lambda: it.store.writes > 0)
        assert it.store.notes == []
        await it.system.stop(DISPATCHER)
        assert it.store.steps() == ["sent", "taken"]


async def test_a_leader_whose_term_is_over_writes_nothing_as_it_goes(autojump_clock: MockClock) -> None:
    async with world(orders=[order()]) as it:
        await until(lambda: it.counts.taken > 0)
        it.office.end("another one leads")
        await it.system.stop(DISPATCHER)
        assert (it.store.writes, it.store.notes) == (0, [])


async def test_of_steps_that_are_left_out_one_line_is_logged_for_many(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("actors.commands.dispatcher.MOST_NOTES", 10)
    async with world() as it:
        it.store.fails = lambda: Unavailable("away") if it.store.writes and not it.store.notes else None
        it.store.give(*(order(number, node=number % 40) for number in range(1, 200)))
        it.hint()
        await trio.sleep(60)
    assert capsys.readouterr().out.count("too many wait") == 1
