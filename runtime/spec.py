"""What a supervisor needs to know to start an actor, and to start it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from runtime.restart import Backoff, Intensity, Restart, Strategy

if TYPE_CHECKING:
    from runtime.actor import Actor


@dataclass(frozen=True, slots=True)
class Spec:
    """One actor to be. Times in seconds.

    ``factory`` is called for each life, so nothing of a failed life reaches the next one. ``mailbox`` is how many
    messages may wait; ``effects`` how many effects may run at once. ``strategy`` and ``intensity`` are for this
    actor's own children. ``stop_timeout`` bounds each step of a stop: the handler that runs, the effects, the
    actor's ``stopped``.
    """

    name: str
    factory: Callable[[], Actor]
    restart: Restart = "permanent"
    mailbox: int = 1024
    effects: int = 1024
    init_timeout: float = 10.0
    stop_timeout: float = 5.0
    backoff: Backoff = field(default=Backoff())
    strategy: Strategy = "one_for_one"
    intensity: Intensity = field(default=Intensity())

    def __post_init__(self) -> None:
        if self.mailbox < 1 or self.effects < 1:
            raise ValueError("mailbox and effects must be at least 1")
        if self.init_timeout <= 0 or self.stop_timeout <= 0:
            raise ValueError("init_timeout and stop_timeout must be positive")


ActorState = Literal["starting", "running", "stopping", "restarting"]
