"""Names of hosts, looked up by threads of their own: a name server that is away holds up nothing else."""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

import trio

#: Names looked up at once. Whoever can't wait any longer gives up; the thread is busy until the lookup has ended.
AT_ONCE = 8


class Names(trio.abc.HostnameResolver):
    """For ``trio.socket.set_custom_hostname_resolver``, of one run. What is an address already does not come here."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(AT_ONCE)

    async def getaddrinfo(
        self, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        """See ``socket.getaddrinfo``."""
        look_up = partial(socket.getaddrinfo, host, port, family, type, proto, flags)
        return await trio.to_thread.run_sync(look_up, abandon_on_cancel=True, limiter=self._limiter)

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        """See ``socket.getnameinfo``."""
        look_up = partial(socket.getnameinfo, sockaddr, flags)
        return await trio.to_thread.run_sync(look_up, abandon_on_cancel=True, limiter=self._limiter)
