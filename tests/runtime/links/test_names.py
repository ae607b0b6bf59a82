"""Names of hosts that can't be looked up now."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest
import trio

from runtime.links.names import AT_ONCE, Names
from tests.runtime.links.hosts import SOON, until


async def test_a_name_server_that_is_away_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    real, answered, asked = socket.getaddrinfo, threading.Event(), list[str]()

    def silent(host: Any, *more: Any, **words: Any) -> Any:
        if host not in (b"away.example", "away.example"):
            return real(host, *more, **words)
        if socket.AI_NUMERICHOST in more or (more and more[-1] & socket.AI_NUMERICHOST):
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        asked.append("away.example")
        answered.wait(SOON)
        raise socket.gaierror(socket.EAI_AGAIN, "the name server is away")

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    trio.socket.set_custom_hostname_resolver(Names())
    others = trio.to_thread.current_default_thread_limiter()
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(trio.open_tcp_stream, "away.example", 7946)
            await until(lambda: len(asked) == AT_ONCE)
            assert others.borrowed_tokens == 0
            # Given up, the lookups go on, and no more of them begin.
            nursery.cancel_scope.cancel()
        assert others.borrowed_tokens == 0
        assert await trio.to_thread.run_sync(lambda: 1) == 1
        assert len(asked) == AT_ONCE
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        async with listener, await trio.open_tcp_stream(*listener.socket.getsockname()[:2]):
            pass
    finally:
        answered.set()
