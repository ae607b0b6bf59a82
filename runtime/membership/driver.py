"""Runs the state machine of membership as an actor: messages and time go in, what it wants sent goes to a transport."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from runtime.actor import Actor
from runtime.membership.events import (
    Event,
    Join,
    Leave,
    Member,
    Notice,
    Peer,
    Publish,
    Received,
    Send,
    Superseded,
    Tick,
    Unreachable,
)
from runtime.membership.machine import DEFAULTS, Machine
from runtime.membership.rules import Rules
from runtime.membership.wire import Garbled, decode, encode
from runtime.message import Message, Request
from runtime.spec import Spec
from runtime.timers import Timer

#: Name of the one actor of this kind in a process.
NAME = "membership"
#: Messages that may wait for it; more are the network's loss, as far as it is concerned.
MAILBOX = 4096


class Transport(Protocol):
    """Links to other hosts, as membership needs them. What arrives is told to the actor: `Arrived` and `Failed`."""

    def send(self, peer: Peer, data: bytes) -> None:
        """Queue bytes for a host, connecting to it if need be. Neither waits nor raises: what finds no room is lost.

        With ``peer.host`` given nobody else may get them; with an empty address only a connection that stands is used.
        """


@dataclass(frozen=True, slots=True)
class Arrived(Message):
    """Bytes from a host. ``peer.host`` was checked by the link; ``peer.address`` may be empty."""

    peer: Peer
    data: bytes


@dataclass(frozen=True, slots=True)
class Failed(Message):
    """A connection that membership wanted could not be made, or broke. ``refused``: nobody listens there."""

    peer: Peer
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Announce(Message):
    """This host's metadata is this from now on. At most ``claim.META_BYTES`` bytes: it is ignored if it has more."""

    meta: bytes


@dataclass(frozen=True, slots=True)
class Depart(Request[None]):
    """Tell the others that this host leaves on purpose; answered once that is with the transport. It stays silent."""


@dataclass(frozen=True, slots=True)
class Roll:
    """Everybody that is known. ``health``: how badly this host itself does, from 0 (well) to 8."""

    own: Member
    others: tuple[Member, ...]
    joined: bool
    health: int


@dataclass(frozen=True, slots=True)
class Who(Request[Roll]):
    """Who is there?"""


@dataclass(frozen=True, slots=True)
class _Wake(Message):
    """A timer has run down."""


_WAKE = _Wake()


class Membership(Actor):
    """``heard`` is called with each notice, in order, inside the handler: it must neither block nor raise.

    A restarted actor of the same process goes on under the same generation; the others tell it where it was.
    """

    def __init__(
        self,
        host: UUID,
        generation: int,
        address: str,
        transport: Transport,
        heard: Callable[[Notice | Superseded], None],
        *,
        seeds: Iterable[str] = (),
        meta: bytes = b"",
        rules: Rules = DEFAULTS,
    ) -> None:
        self._machine = Machine(host, generation, address, meta, rules)
        self._transport = transport
        self._heard = heard
        self._seeds = tuple(seeds)
        self._timer: Timer | None = None
        self._garbled = 0

    def members(self) -> list[Member]:
        """Return all others that are known. For those in the same process who can't wait for an answer."""
        return self._machine.members()

    def roll(self) -> Roll:
        """Return everybody that is known, this host included. For those in the same process, as above."""
        machine = self._machine
        return Roll(machine.own, tuple(machine.members()), machine.joined, machine.health)

    async def init(self) -> None:
        """Begin to look for the others; return at once."""
        self._step(Join(self._seeds))

    async def receive(self, message: Message) -> None:
        """Feed the state machine."""
        match message:
            case Arrived(peer, data):
                try:
                    said = decode(data)
                except Garbled as error:
                    self._note_garbled(peer, error)
                    return
                self._step(Received(peer, said))
            case _Wake():
                self._timer = None
                self._step(Tick())
            case Failed(peer, refused):
                self._step(Unreachable(peer, refused))
            case Announce(meta):
                try:
                    self._step(Publish(meta))
                except ValueError as error:
                    self.ctx.log.error("metadata of this host is not told to others", error=str(error))
            case Who():
                self.ctx.reply(self.roll())
            case Depart():
                self._step(Leave())
                self.ctx.reply(None)
            case _:
                self.ctx.log.warning("unknown message", message=type(message).__name__)

    def _step(self, event: Event) -> None:
        env = self.ctx.env
        for effect in self._machine.step(event, env.monotonic(), env.random):
            match effect:
                case Send(peer, said):
                    self._transport.send(peer, encode(said))
                case Notice():
                    self._heard(effect)
                case Superseded(generation):
                    self.ctx.log.error("a later start of this host is a member: this one is silent", later=generation)
                    self._heard(effect)
        self._set_timer()

    def _set_timer(self) -> None:
        wake = self._machine.wake
        if self._timer is not None:
            if wake is not None and self._timer.when <= wake:
                # It wakes early, finds nothing to do and is set again: cheaper than a new one at each step.
                return
            self._timer.cancel()
            self._timer = None
        if wake is not None:
            self._timer = self.ctx.after(max(0.0, wake - self.ctx.env.monotonic()), _WAKE)

    def _note_garbled(self, peer: Peer, error: Garbled) -> None:
        self._garbled += 1
        if self._garbled & (self._garbled - 1) == 0:
            # The first, the second, the fourth, ...: a host with another idea of this protocol must not fill the log.
            self.ctx.log.warning(
                "a message was not understood", host=str(peer.host), error=str(error), count=self._garbled
            )


def membership(factory: Callable[[], Membership]) -> Spec:
    """Return the spec of the actor."""
    return Spec(NAME, factory, mailbox=MAILBOX)
