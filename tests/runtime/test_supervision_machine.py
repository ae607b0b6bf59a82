"""Real supervisors beside a model of what must come of each event, under all three strategies."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runtime import Backoff, Intensity, NameTaken, RestartsExhausted, StartFailed
from tests.runtime.parts import Crash, Do, Player, player
from tests.runtime.stage import Stage

LIMIT, WITHIN = 4, 60.0
BACKOFF = Backoff(free=1, first=1.0, factor=2.0, longest=8.0, jitter=0.0)
STRATEGIES = st.sampled_from(["one_for_one", "rest_for_one", "one_for_all"])
NAMES = ["a", "b", "c", "d"]


@dataclass
class Expected:
    """A child as the model sees it."""

    restart: str
    #: How many lives it has had.
    births: int = 1
    #: When it is going to be started again; None while it lives.
    due: float | None = None
    times: list[float] = field(default_factory=list)


class Supervision(RuleBasedStateMachine):
    """The model restarts with arithmetic on lists; it shares no code with the policy."""

    @initialize(strategy=STRATEGIES)
    def begin(self, strategy: str) -> None:
        self.strategy = strategy
        self.now = 0.0
        self.children: dict[str, Expected] = {}
        self.counted: list[float] = []
        self.exhausted = False
        self.births: dict[str, int] = {}
        self.order: list[str] = []
        self.stage = Stage(strategy=strategy, intensity=Intensity(LIMIT, WITHIN))

    def teardown(self) -> None:
        if hasattr(self, "stage"):
            self.stage.close()
            if not self.exhausted:
                assert self.stage.failure is None

    # ---- the model

    def living(self) -> list[str]:
        return [name for name, child in self.children.items() if child.due is None]

    def ended(self, name: str, failed: bool) -> None:
        child = self.children[name]
        if child.restart == "temporary" or (child.restart == "transient" and not failed):
            del self.children[name]
            return
        times = child.times if self.strategy == "one_for_one" else self.counted
        times[:] = [at for at in times if self.now - at < WITHIN]
        if len(times) >= LIMIT:
            self.exhausted = True
            return
        wait = 0.0 if not times else min(8.0, 2.0 ** (len(times) - 1))
        times.append(self.now)
        names = list(self.children)
        group = {
            "one_for_one": [name],
            "one_for_all": names,
            "rest_for_one": names[names.index(name) :],
        }[self.strategy]
        # Who joins a group that waits already waits with it, until the later of both times.
        begun = [c.due for c in self.children.values() if c.due is not None and self.strategy != "one_for_one"]
        due = max([self.now + wait, *begun])
        for other in [n for n in names if n in group or (begun and self.children[n].due is not None)]:
            if self.children[other].restart == "temporary" and other != name:
                del self.children[other]
            else:
                self.children[other].due = due
        self.revive()

    def revive(self) -> None:
        for child in self.children.values():
            if child.due is not None and child.due <= self.now:
                child.due = None
                child.births += 1

    # ---- what happens

    @precondition(lambda self: hasattr(self, "stage") and self.exhausted)
    @rule(strategy=STRATEGIES)
    def begin_after_the_end(self, strategy: str) -> None:
        self.begin(strategy)

    def alive(self) -> bool:
        return hasattr(self, "stage") and not self.exhausted

    @precondition(alive)
    @rule(name=st.sampled_from(NAMES), restart=st.sampled_from(["permanent", "transient", "temporary"]))
    def start(self, name: str, restart: str) -> None:
        def born(_: Player) -> None:
            self.births[name] = self.births.get(name, 0) + 1
            self.order.append(name)

        async def step() -> None:
            if name in self.children:
                with pytest.raises(NameTaken):
                    await self.stage.system.start(player(name))
            else:
                self.births[name] = 0
                await self.stage.system.start(player(name, on_init=born, restart=restart, backoff=BACKOFF))

        self.stage.do(step)
        self.children.setdefault(name, Expected(restart))

    @precondition(alive)
    @rule(name=st.sampled_from(NAMES))
    def start_fails(self, name: str) -> None:
        def fail(_: Player) -> None:
            raise OSError

        async def step() -> None:
            with pytest.raises((StartFailed, NameTaken)):
                await self.stage.system.start(player(name, on_init=fail))

        self.stage.do(step)

    @precondition(lambda self: self.alive() and self.living())
    @rule(data=st.data(), how=st.sampled_from(["crash", "effect", "normal"]))
    def end(self, data: st.DataObject, how: str) -> None:
        name = data.draw(st.sampled_from(self.living()))
        self.order.clear()
        before = {other: child.births for other, child in self.children.items()}

        async def broken() -> None:
            raise OSError

        async def step() -> None:
            ref = self.stage.system.name(name).current()
            match how:
                case "crash":
                    ref.tell(Crash(ValueError()))
                case "effect":
                    ref.tell(Do(lambda a: a.ctx.effect(broken, name="broken", deadline=None) and None))
                case _:
                    ref.tell(Do(lambda a: a.ctx.stop()))
            await ref.ended()
            assert not ref.alive

        self.ended(name, failed=how != "normal")
        try:
            self.stage.do(step)
        except (trio.RunFinishedError, trio.Cancelled):
            assert self.exhausted
        if self.exhausted:
            self.stage.wait_over()
            assert isinstance(self.stage.failure, RestartsExhausted)
        else:
            revived = [n for n, child in self.children.items() if child.births > before[n]]
            assert self.order == revived, "a group is started again in the order of its first starts"

    @precondition(alive)
    @rule(name=st.sampled_from(NAMES))
    def stop(self, name: str) -> None:
        async def step() -> None:
            await self.stage.system.stop(name)

        self.stage.do(step)
        self.children.pop(name, None)

    @precondition(alive)
    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0, 10.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.stage.jump(seconds)
        self.now += seconds
        self.revive()

    # ---- what must hold

    @invariant()
    def the_same_children_live(self) -> None:
        if not self.alive():
            return

        async def look() -> dict[str, tuple[bool, int, str]]:
            return {i.name: (i.state == "running", i.restarts, i.state) for i in self.stage.system.snapshot()}

        seen = self.stage.do(look)
        assert list(seen) == list(self.children)
        for name, child in self.children.items():
            running, restarts, state = seen[name]
            assert running == (child.due is None), (name, state, child)
            assert self.births[name] == child.births
            assert restarts == child.births - 1

    @invariant()
    def no_dead_letters(self) -> None:
        if self.alive():
            assert self.stage.system.dead_letters.count == 0


Supervision.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestSupervision = Supervision.TestCase
