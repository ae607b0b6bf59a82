"""Handles to actors. Holding one keeps nothing alive and says nothing about whether the actor still lives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, TypeVar

import trio

from runtime.errors import AskTimeout, ProtocolError, UnknownActor
from runtime.message import Exit, Message, Request
from runtime.name import Name
from runtime.reply import Reply

if TYPE_CHECKING:
    from runtime.life import Life
    from runtime.system import System

R = TypeVar("R")

#: Sends that may pass without giving other tasks a turn.
SENDS_PER_TURN = 64


class Ref(ABC):
    """How to reach an actor."""

    __slots__ = ()

    @property
    @abstractmethod
    def name(self) -> Name:
        """The actor's name."""

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether a message told now would be queued, room provided."""

    @abstractmethod
    def current(self) -> LifeRef:
        """Return a ref to the life this reaches now; raises ``UnknownActor`` when a name has none."""

    @abstractmethod
    def tell(self, message: Message) -> None:
        """Queue a message. Raises ``MailboxFull`` or ``ActorStopped``; then it was not queued."""

    @abstractmethod
    async def send(self, message: Message) -> None:
        """Queue a message, waiting for room. Raises ``ActorStopped``; cancelled or failed, it was not queued."""

    @abstractmethod
    async def ask(self, request: Request[R], *, timeout: float) -> R:
        """Return the answer to ``request``.

        Raises ``AskTimeout`` after ``timeout`` seconds, ``MailboxFull`` or ``ActorStopped``, what the handler failed
        with if that has a ``code`` and a ``detail``, else ``RequestFailed``. Cancelling withdraws a request whose
        turn has not come; the outcome of one whose turn has come is unknown.
        """


class LifeRef(Ref):
    """One life of an actor. After its end every use fails, also when the actor was restarted under the same name."""

    __slots__ = ("_life",)

    def __init__(self, life: Life) -> None:
        self._life = life

    @property
    def name(self) -> Name:
        """The actor's name."""
        return self._life.name

    @property
    def generation(self) -> int:
        """Grows with each life in the system."""
        return self._life.generation

    @property
    def alive(self) -> bool:
        """Whether a message told now would be queued, room provided."""
        return not self._life.mailbox.closed

    def current(self) -> LifeRef:
        """Return itself."""
        return self

    @property
    def life(self) -> Life:
        """For the runtime itself."""
        return self._life

    def tell(self, message: Message) -> None:
        """See ``Ref.tell``."""
        life = self._life
        mailbox = life.mailbox
        if mailbox.closed:
            raise life.refuse(message)
        if not mailbox.put(message, None):
            raise life.refuse_full(message)

    async def send(self, message: Message) -> None:
        """See ``Ref.send``."""
        life = self._life
        mailbox = life.mailbox
        if mailbox.closed:
            await trio.lowlevel.checkpoint()
            raise life.refuse(message)
        if mailbox.put(message, None):
            # A checkpoint for each message would be most of its price. Those left out are made up for before long.
            system = life.system
            system.unyielded += 1
            if system.unyielded >= SENDS_PER_TURN:
                system.unyielded = 0
                await trio.lowlevel.cancel_shielded_checkpoint()
            return
        if trio.lowlevel.current_task() is life.task:
            raise ProtocolError(f"{life.name} waits for room in its own full mailbox")
        if not await mailbox.wait_room(message):
            raise life.refuse(message)

    async def ask(self, request: Request[R], *, timeout: float) -> R:
        """See ``Ref.ask``."""
        life = self._life
        mailbox = life.mailbox
        if mailbox.closed:
            await trio.lowlevel.checkpoint()
            raise life.refuse(request)
        if trio.lowlevel.current_task() is life.task:
            raise ProtocolError(f"{life.name} asks itself and would wait for its own answer")
        slot = Reply(request, life, timeout)
        if not mailbox.put(request, slot):
            await trio.lowlevel.checkpoint()
            raise life.refuse_full(request)
        with trio.move_on_after(timeout):
            answer: R = await slot.wait()
            return answer
        raise AskTimeout(life.name, type(request).__name__, timeout)

    async def ended(self) -> Exit:
        """Wait until this life has ended and say why."""
        return await self._life.join()

    def __repr__(self) -> str:
        return f"<Ref {self.name}#{self.generation}{'' if self.alive else ' stopped'}>"


class NamedRef(Ref):
    """Whoever lives under a name at the moment of use. Raises ``UnknownActor`` while nobody does.

    Meant for actors that are asked for what they hold elsewhere (a database), where the next life answers as well
    as the last one.
    """

    __slots__ = ("_name", "_system")

    def __init__(self, system: System, name: Name) -> None:
        self._system = system
        self._name = name

    @property
    def name(self) -> Name:
        """The actor's name."""
        return self._name

    @property
    def alive(self) -> bool:
        """Whether a message told now would be queued, room provided."""
        ref = self._system.lookup(self._name)
        return ref is not None and ref.alive

    def current(self) -> LifeRef:
        """Return a ref to the present life; raises ``UnknownActor``."""
        ref = self._system.lookup(self._name)
        if ref is None:
            raise UnknownActor(self._name)
        return ref

    def tell(self, message: Message) -> None:
        """See ``Ref.tell``."""
        self._current_for(message).tell(message)

    async def send(self, message: Message) -> None:
        """See ``Ref.send``."""
        await self._current_for(message).send(message)

    async def ask(self, request: Request[R], *, timeout: float) -> R:
        """See ``Ref.ask``."""
        return await self._current_for(request).ask(request, timeout=timeout)

    def _current_for(self, message: Message) -> LifeRef:
        try:
            return self.current()
        except UnknownActor:
            self._system.dead_letters.add(self._name, "stopped", message)
            raise

    def __repr__(self) -> str:
        return f"<NamedRef {self._name}>"
