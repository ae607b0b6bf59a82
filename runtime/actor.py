"""The base of all actors: a state of its own, touched by one message at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.context import Context
    from runtime.message import Exit, Message


class Actor:
    """Subclass and override. A new instance is made for each life.

    An error that ``receive`` raises ends the life and the supervisor decides about the next one, with one exception:
    an error with a ``code`` and a ``detail``, raised while a request is handled, is the answer to that request.
    """

    #: Set before ``init``.
    ctx: Context

    async def init(self) -> None:
        """Prepare. Bounded by ``Spec.init_timeout``; raising makes the start fail."""

    async def receive(self, message: Message) -> None:
        """Handle one message. Must be quick: what takes long belongs into ``ctx.effect``."""
        raise NotImplementedError(f"{type(self).__name__} handles no messages, got {type(message).__name__}")

    async def stopped(self, reason: Exit) -> None:
        """Clean up. Runs shielded for at most ``Spec.stop_timeout``, also after an ``init`` that failed.

        By then the actor's effects and children have ended and its mailbox is closed.
        """
