"""What the system shows of itself."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.child import Child
from runtime.name import Name
from runtime.spec import ActorState


@dataclass(frozen=True, slots=True)
class ActorInfo:
    """One actor as it is now. Ages in seconds; ``handled`` counts this life's messages, ``restarts`` all of them."""

    name: Name
    parent: str
    generation: int
    state: ActorState
    depth: int
    limit: int
    #: Results, ticks and news waiting in the system lane.
    lane_depth: int
    #: How long the oldest queued message has waited.
    oldest_age: float | None
    #: Type of the message being handled.
    current: str | None
    current_age: float | None
    handled: int
    restarts: int
    last_error: str | None
    #: Names of the effects that run.
    effects: tuple[str, ...]
    #: Requests taken with ``reply_slot`` and not answered yet.
    open_requests: int
    trace: bool


def describe(child: Child, now: float) -> ActorInfo:
    """Return what there is to know of ``child`` at the monotonic time ``now``."""
    life = child.life
    if life is None or life.state is None:
        return ActorInfo(
            name=child.name,
            parent=child.supervisor.name,
            generation=0,
            state="restarting",
            depth=0,
            limit=child.spec.mailbox,
            lane_depth=0,
            oldest_age=None,
            current=None,
            current_age=None,
            handled=0,
            restarts=child.restarts,
            last_error=child.last_error,
            effects=(),
            open_requests=0,
            trace=child.trace,
        )
    box = life.mailbox
    heads = [lane[0][0] for lane in (box.queue, box.lane) if lane]
    current = life.current
    return ActorInfo(
        name=child.name,
        parent=child.supervisor.name,
        generation=life.generation,
        state=life.state,
        depth=len(box.queue),
        limit=box.limit,
        lane_depth=len(box.lane or ()),
        oldest_age=now - min(heads) if heads else None,
        current=type(current).__name__ if current is not None else None,
        current_age=now - life.since if current is not None else None,
        handled=life.handled,
        restarts=child.restarts,
        last_error=child.last_error,
        effects=tuple(sorted(effect.name for effect in life.effects or ())),
        open_requests=len(life.slots or ()),
        trace=child.trace,
    )
