"""A supervisor as an actor: starts the given children and does nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runtime.actor import Actor
from runtime.message import Message
from runtime.restart import Intensity, Restart, Strategy
from runtime.spec import Spec


class Branch(Actor):
    """Its children are started in order at each of its starts and stopped with it."""

    def __init__(self, children: Callable[[], Sequence[Spec]]) -> None:
        self._children = children

    async def init(self) -> None:
        """Start the children. One that does not come up makes this start fail."""
        for spec in self._children():
            await self.ctx.start(spec)

    async def receive(self, message: Message) -> None:
        """A branch has nothing to say to messages."""
        self.ctx.log.warning("unknown message", message=type(message).__name__)


def branch(
    name: str,
    children: Callable[[], Sequence[Spec]],
    *,
    strategy: Strategy = "one_for_one",
    intensity: Intensity = Intensity(),  # noqa: B008 - frozen
    restart: Restart = "permanent",
    init_timeout: float = 60.0,
) -> Spec:
    """Return the spec of a supervisor over ``children``. ``init_timeout`` covers the starts of all of them."""
    return Spec(
        name,
        lambda: Branch(children),
        restart=restart,
        strategy=strategy,
        intensity=intensity,
        init_timeout=init_timeout,
    )
