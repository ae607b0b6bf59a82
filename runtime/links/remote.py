"""Refs to actors on other hosts. They look like any other ref; what can happen to them is more."""

from __future__ import annotations

from typing import TypeVar
from uuid import UUID

import trio

from runtime.errors import ProtocolError
from runtime.links.board import Board
from runtime.links.errors import StaleIdentity
from runtime.message import Message, Request
from runtime.name import Name
from runtime.ref import LifeRef, Ref

R = TypeVar("R")


class RemoteRef(Ref):
    """Whoever lives under a name on another host, in one life of that host if ``generation`` is given.

    Besides the errors of any ref, each use may raise `Unreachable`, `StaleIdentity` and `Unsendable`.
    """

    __slots__ = ("_board", "_generation", "_host", "_label", "_name")

    def __init__(self, board: Board, host: UUID, name: str, generation: int | None = None) -> None:
        self._board = board
        self._host = host
        self._name = Name(name)
        self._generation = generation
        self._label = f"{name} on {host}"

    @property
    def name(self) -> Name:
        """The actor's name on its host."""
        return self._name

    @property
    def host(self) -> UUID:
        """The host it lives on."""
        return self._host

    @property
    def alive(self) -> bool:
        """Whether there is a link to its host; nothing is known about the actor."""
        try:
            return self._board.session(self._host, self._generation, self._label) is not None
        except StaleIdentity:
            return False

    def current(self) -> LifeRef:
        """Raise ``ProtocolError``: lives on other hosts can't be monitored, links can (see `LinkDown`)."""
        raise ProtocolError(f"{self._label} is on another host and can't be monitored")

    def tell(self, message: Message) -> None:
        """Queue a message for the link. It is told at most once; that it was is not known.

        Raises `Unreachable` when there is no link now, `QueueFull`, `StaleIdentity` or `Unsendable`.
        """
        self._board.tell(self._host, self._name, message, self._generation, self._label)

    async def send(self, message: Message) -> None:
        """Queue a message, waiting for a link and for room on it. Raises as `tell` does, but not `QueueFull`."""
        session = await self._board.linked_to(self._host, self._generation, self._label)
        await session.room()
        await trio.lowlevel.checkpoint()
        session.tell(self._name, message)

    async def ask(self, request: Request[R], *, timeout: float) -> R:
        """Return the answer; ``timeout`` in seconds includes making a link.

        Raises, besides what ``Ref.ask`` does: `Unreachable` (``sent`` tells whether it may have been carried out),
        `Expired` (it was not), `StaleIdentity`, `Refused`, `Unsendable`. An error with a ``code`` and a ``detail``
        arrives as `RemoteProblem`, or as `StaleEpoch` if it is one.
        """
        answer: R = await self._board.ask(self._host, self._name, request, self._generation, self._label, timeout)
        return answer

    def __repr__(self) -> str:
        return f"<RemoteRef {self._label}>"
