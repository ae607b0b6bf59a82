"""Takes what peers say to the actors of this host."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from runtime.dead_letters import Cause
from runtime.errors import UnknownActor
from runtime.links.frames import Bulk, Identity
from runtime.links.registry import Registry
from runtime.message import Message, Request
from runtime.ref import LifeRef
from runtime.system import System

#: Takes one piece of bulk data of a peer.
BulkSink = Callable[[Identity, Bulk], Awaitable[None]]


class SystemReceiver:
    """Finds actors by name, and lets each be told only what is meant for its kind."""

    def __init__(self, system: System, registry: Registry, bulk: BulkSink | None = None) -> None:
        self._system = system
        self._registry = registry
        self._bulk = bulk

    def tell(self, peer: Identity, to: str, message: Message) -> None:  # noqa: ARG002
        """See `Receiver.tell`."""
        self._find(to, message).tell(message)

    async def ask(self, peer: Identity, to: str, request: Request[Any], *, timeout: float) -> object:  # noqa: ARG002
        """See `Receiver.ask`."""
        return await self._find(to, request).ask(request, timeout=timeout)

    async def bulk(self, peer: Identity, piece: Bulk) -> None:
        """Hand a piece on; without anybody who takes it it is dropped."""
        if self._bulk is not None:
            await self._bulk(peer, piece)
        else:
            self.lost(piece.transfer, "stopped", f"{len(piece.data)} bytes")

    def lost(self, to: str, cause: Cause, what: object) -> None:
        """Count it among the dead letters."""
        self._system.dead_letters.add(to, cause, what)

    def _find(self, to: str, message: Message) -> LifeRef:
        kinds = self._registry.of(type(message)).to
        ref = self._system.lookup(to)
        if ref is None or (kinds and ref.name.kind not in kinds):
            self._system.dead_letters.add(to, "stopped", message)
            raise UnknownActor(to)
        return ref
