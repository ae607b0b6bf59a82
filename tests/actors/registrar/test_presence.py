from __future__ import annotations

from uuid import UUID

import trio
from trio.testing import MockClock

from actors.model.errors import Unavailable
from actors.registrar.actor import INTERVAL, Presence
from runtime import SimulatedEnvironment, Spec, System

NODE = UUID(int=7)


class Store:
    def __init__(self, *answers: bool | Exception) -> None:
        self.answers = list(answers)
        self.beats: list[tuple[UUID, int]] = []

    async def heartbeat(self, node_id: UUID, generation: int) -> bool:
        self.beats.append((node_id, generation))
        answer = self.answers.pop(0) if self.answers else True
        if isinstance(answer, Exception):
            raise answer
        return answer


async def run(store: Store, seconds: float) -> list[str]:
    told: list[str] = []
    async with System(SimulatedEnvironment()) as system:
        await system.start(Spec("presence", lambda: Presence(store, NODE, 3, lambda: told.append("superseded"))))
        await trio.sleep(seconds)
    return told


async def test_it_beats_through_an_absent_database(autojump_clock: MockClock) -> None:
    store = Store(True, Unavailable("away"), Unavailable("away"))
    assert await run(store, INTERVAL * 8) == []
    assert len(store.beats) >= 5
    assert set(store.beats) == {(NODE, 3)}


async def test_it_tells_when_another_process_took_the_node(autojump_clock: MockClock) -> None:
    assert await run(Store(True, False), INTERVAL * 2.5) == ["superseded"]
