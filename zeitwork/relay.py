"""Carries the database's notifications to the actors that should look again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from runtime import Actor, ActorStopped, MailboxFull, Message
from zeitwork.store.notifications import Notifications


@dataclass(frozen=True, slots=True)
class _Ended(Message):
    """Listening ended, which it never should."""

    error: Exception | None = None


class Relay(Actor):
    """For each name in ``wakes``: a message to that actor whenever one of its channels was notified.

    Hints only: one that is lost because its receiver is restarting or full costs a slow timer's wait, nothing else.
    """

    def __init__(
        self, notifications: Notifications, wakes: Mapping[str, tuple[tuple[str, ...], Callable[[], Message]]]
    ) -> None:
        self._notifications = notifications
        self._wakes = dict(wakes)

    async def init(self) -> None:
        """Start one follower for each receiver."""
        for name, (channels, message) in self._wakes.items():
            self.ctx.effect(
                self._follow,
                name,
                channels,
                message,
                name=f"follow for {name}",
                deadline=None,
                then=lambda _: _Ended(),
                failed=_Ended,
            )

    async def receive(self, message: Message) -> None:
        """A follower that ended is a fault: this actor is restarted, and with it all followers."""
        if isinstance(message, _Ended):
            raise RuntimeError("a follower ended") from message.error
        self.ctx.log.warning("unknown message", message=type(message).__name__)

    async def _follow(self, name: str, channels: tuple[str, ...], message: Callable[[], Message]) -> None:
        with self._notifications.subscribe(*channels) as subscription:
            while True:
                await subscription.wait()
                receiver = self.ctx.system.lookup(name)
                if receiver is not None:
                    with suppress(ActorStopped, MailboxFull):
                        receiver.tell(message())
