"""Actors that several questions use."""

from __future__ import annotations

from dataclasses import dataclass

from runtime import Actor, Message, Request


@dataclass(frozen=True, slots=True)
class Get(Request[int]):
    """Answered with ``number``."""

    number: int


@dataclass(frozen=True, slots=True)
class Item(Message):
    """Carries something."""

    number: int


class Idle(Actor):
    """Takes messages and does nothing."""

    async def receive(self, message: Message) -> None:
        """Do nothing."""


class Echo(Actor):
    """Answers."""

    async def receive(self, message: Message) -> None:
        """Answer with what was asked."""
        assert isinstance(message, Get)
        self.ctx.reply(message.number)
