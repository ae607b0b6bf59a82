"""Writes this host's signs of life, and notices when another process has taken its place."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from actors.registrar.messages import Beat, Beaten, BeatFailed
from actors.registrar.pulse import Pulse
from actors.registrar.store import PresenceStore
from runtime import Actor, Message

#: Name of the one actor of this kind.
NAME = "presence"
#: Seconds between signs of life, and how long one may take to write.
INTERVAL, DEADLINE = 3.0, 4.0


class Presence(Actor):
    """One beat under way at a time. ``superseded`` is called once if the node was registered by another process.

    ``pulse`` learns of each that was written.
    """

    def __init__(
        self,
        store: PresenceStore,
        node_id: UUID,
        generation: int,
        superseded: Callable[[], None],
        pulse: Pulse | None = None,
    ) -> None:
        self._store = store
        self._node_id = node_id
        self._generation = generation
        self._superseded = superseded
        self._pulse = pulse or Pulse()
        self._busy = False
        self._away = False

    async def init(self) -> None:
        """Beat at intervals; registering was the first one."""
        self.ctx.every(INTERVAL, Beat())

    async def receive(self, message: Message) -> None:
        """Start a beat, or learn how one went."""
        match message:
            case Beat():
                if not self._busy:
                    self._busy = True
                    self.ctx.effect(
                        self._store.heartbeat,
                        self._node_id,
                        self._generation,
                        name="heartbeat",
                        deadline=DEADLINE,
                        then=Beaten,
                        failed=BeatFailed,
                    )
            case Beaten(ours=ours):
                self._busy = False
                if self._away:
                    self._away = False
                    self.ctx.log.info("database is back", node=str(self._node_id))
                if ours:
                    self._pulse.beat(self.ctx.env.monotonic())
                else:
                    # Which of the two it is, whoever ends the process says; a host that leaves comes here in order.
                    why = "another process registered as this node, or it was removed or has left"
                    self.ctx.log.warning("no sign of life is written any more", node=str(self._node_id), reason=why)
                    self._superseded()
            case BeatFailed(error=error):
                self._busy = False
                if not self._away:
                    self._away = True
                    self.ctx.log.warning("sign of life not written", node=str(self._node_id), error=str(error))
            case _:
                self.ctx.log.warning("unknown message", message=type(message).__name__)
