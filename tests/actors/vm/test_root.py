"""Waiting for a root filesystem, over an images actor that is away, or says that it is on its way."""

from __future__ import annotations

import pytest

from actors.images.messages import NAME, EnsureRoot, Fetching
from actors.model.errors import NotFound, Unavailable
from actors.model.image import ImageConfig, RootImage
from actors.vm.root import await_root
from runtime import Actor, Message, SimulatedEnvironment, Spec, System
from runtime.simulation import run

ROOT = RootImage("sha256:1", "/there", ImageConfig())
Answers = list[RootImage | Fetching | Exception]


class Images(Actor):
    """Gives one answer after the other; what is no problem ends its life, and the next one goes on."""

    def __init__(self, answers: Answers, asked: list[EnsureRoot]) -> None:
        self._answers, self._asked = answers, asked

    async def receive(self, message: Message) -> None:
        assert isinstance(message, EnsureRoot)
        self._asked.append(message)
        answer = self._answers.pop(0)
        if isinstance(answer, (NotFound, Unavailable)):
            self.ctx.fail(answer)
        elif isinstance(answer, Exception):
            raise answer
        else:
            self.ctx.reply(answer)


def wait(answers: Answers, *, there: bool = True) -> tuple[RootImage, list[str], int]:
    """Return the root, what was told meanwhile and how often it was asked for."""
    told: list[str] = []
    asked: list[EnsureRoot] = []

    async def main() -> RootImage:
        environment = SimulatedEnvironment(1)
        async with System(environment) as system:
            if there:
                await system.start(Spec(NAME, lambda: Images(answers, asked), restart="permanent"))
            return await await_root(system, environment, "sha256:1", "r/app", told.append)

    root = run(main, seed=1)
    assert set(asked) <= {EnsureRoot("sha256:1", "r/app")}
    return root, told, len(asked)


def test_it_asks_until_it_is_there_and_tells_each_thing_once() -> None:
    answers: Answers = [Fetching("a"), Fetching("a"), Fetching("b"), ROOT]
    assert wait(answers) == (ROOT, ["a", "b"], 4)


def test_an_images_actor_that_is_started_again_costs_time_only() -> None:
    assert wait([Fetching("a"), RuntimeError("a fault"), ROOT])[::2] == (ROOT, 3)


@pytest.mark.parametrize("problem", [NotFound("nowhere"), Unavailable("the registry is away")])
def test_its_problem_is_the_end(problem: Exception) -> None:
    with pytest.raises(type(problem)) as caught:
        wait([Fetching("a"), problem, ROOT])
    assert str(caught.value) == str(problem)


def test_one_that_stays_away_is_not_waited_for_for_ever() -> None:
    with pytest.raises(Unavailable) as caught:
        wait([], there=False)
    assert "is not there" in caught.value.detail
