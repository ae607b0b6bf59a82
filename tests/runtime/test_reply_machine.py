"""Reply slots under every order of asking, answering, cancelling, timing out and dying: each ask ends exactly once."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runtime import ActorStopped, AskTimeout, ProtocolError, Reply, RequestFailed
from tests.runtime.parts import Player, Query, Refused, player
from tests.runtime.stage import Stage


@dataclass
class Asked:
    """One ask and all that is known of it."""

    number: int
    scope: trio.CancelScope
    deadline: float
    slot: Reply | None = None
    #: What must come of it; None while it waits.
    expected: str | None = None
    answered: bool = False
    late: bool = False
    results: list[str] | None = None


class Replies(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.stage = Stage()
        self.now = 0.0
        self.asked: list[Asked] = []
        self.late = 0
        self.starts = 0
        self.restart()

    def teardown(self) -> None:
        if hasattr(self, "stage"):
            self.stage.close()
            assert self.stage.failure is None

    def restart(self) -> None:
        async def step() -> None:
            self.ref = await self.stage.system.start(player("a", restart="temporary"))

        self.stage.do(step)

    def waiting(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.expected is None]

    def with_slot(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.slot is not None]

    @rule(timeout=st.sampled_from([0.5, 2.0, 5.0]), at_once=st.sampled_from([None, "value", "refused", "nothing"]))
    def ask(self, timeout: float, at_once: str | None) -> None:
        asked = Asked(len(self.asked), trio.CancelScope(), self.now + timeout, results=[])
        self.asked.append(asked)

        def handle(actor: Player) -> None:
            match at_once:
                case None:
                    asked.slot = actor.ctx.reply_slot()
                case "value":
                    actor.ctx.reply(str(asked.number))
                case "refused":
                    raise Refused("no")

        async def run() -> None:
            assert asked.results is not None
            with asked.scope:
                try:
                    asked.results.append(await self.ref.ask(Query(handle), timeout=timeout))
                except (AskTimeout, ActorStopped, RequestFailed, Refused) as error:
                    asked.results.append(type(error).__name__)
            if asked.scope.cancelled_caught:
                asked.results.append("cancelled")

        async def step() -> None:
            self.stage.nursery.start_soon(run)

        self.stage.do(step)
        asked.expected = {
            None: None,
            "value": str(asked.number),
            "refused": "Refused",
            "nothing": "RequestFailed",
        }[at_once]

    @precondition(lambda self: self.with_slot())
    @rule(data=st.data(), how=st.sampled_from(["value", "refused", "fault"]))
    def answer(self, data: st.DataObject, how: str) -> None:
        asked = data.draw(st.sampled_from(self.with_slot()))
        assert asked.slot is not None
        slot = asked.slot

        async def step() -> None:
            match how:
                case "value":
                    slot.reply(str(asked.number))
                case "refused":
                    slot.fail(Refused("no"))
                case _:
                    slot.fail(ValueError("bug"))

        if asked.answered:
            with pytest.raises(ProtocolError):
                self.stage.do(step)
            return
        self.stage.do(step)
        asked.answered = True
        if asked.expected is None:
            asked.expected = {"value": str(asked.number), "refused": "Refused", "fault": "RequestFailed"}[how]
        else:
            self.late += 1

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        asked = data.draw(st.sampled_from(self.asked))

        async def step() -> None:
            asked.scope.cancel()

        self.stage.do(step)
        if asked.expected is None:
            asked.expected = "cancelled"

    @precondition(lambda self: self.waiting() and self.with_slot())
    @rule(data=st.data(), answer_first=st.booleans())
    def answer_and_cancel_in_one_moment(self, data: st.DataObject, answer_first: bool) -> None:
        asked = data.draw(st.sampled_from(self.waiting()))
        assert asked.slot is not None
        slot = asked.slot

        async def step() -> None:
            if answer_first:
                slot.reply(str(asked.number))
                asked.scope.cancel()
            else:
                asked.scope.cancel()
                slot.reply(str(asked.number))

        self.stage.do(step)
        asked.answered = True
        asked.expected = str(asked.number) if answer_first else "cancelled"
        self.late += not answer_first

    @rule(seconds=st.sampled_from([0.25, 1.0, 4.0]))
    def wait(self, seconds: float) -> None:
        self.stage.jump(seconds)
        self.now += seconds
        for asked in self.waiting():
            if asked.deadline <= self.now:
                asked.expected = "AskTimeout"

    @rule()
    def die_and_live_again(self) -> None:
        async def step() -> None:
            await self.stage.system.stop("a")

        self.stage.do(step)
        for asked in self.waiting():
            asked.expected = "ActorStopped"
        self.restart()

    @invariant()
    def each_ask_ends_once_as_it_must(self) -> None:
        if not hasattr(self, "stage"):
            return
        for asked in self.asked:
            assert asked.results == ([] if asked.expected is None else [asked.expected])

    @invariant()
    def late_answers_are_counted_and_no_slot_is_kept(self) -> None:
        if not hasattr(self, "stage"):
            return
        assert self.stage.system.dead_letters.by_cause.total() == self.late
        assert self.stage.system.dead_letters.by_cause["late"] == self.late


Replies.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestReplies = Replies.TestCase
