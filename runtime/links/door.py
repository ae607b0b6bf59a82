"""Other websocket paths on the port of links."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from trio_websocket import WebSocketConnection


@dataclass(frozen=True, slots=True)
class Door:
    """``handle`` gets each websocket and the peer's address. It may raise what it likes: that ends its connection only.

    ``proof``: only peers with a certificate of the cluster pass. ``deadline`` in seconds, None for as long as it takes.
    """

    handle: Callable[[WebSocketConnection, str], Awaitable[None]]
    proof: bool = False
    deadline: float | None = 10.0
