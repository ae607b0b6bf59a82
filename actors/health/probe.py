"""One look at one app: a connection, or a request and the first line of its answer."""

from __future__ import annotations

import os
from collections.abc import Sequence

import trio

from actors.model.health import HealthCheck, HealthType

#: Longest first line of an answer, in bytes.
_LINE = 4096


async def probe(check: HealthCheck, addresses: Sequence[str], port: int) -> str:
    """Return why the app does not answer, an empty text when it does. One address that answers is enough."""
    reason = "it has no address"
    with trio.move_on_after(check.timeout):
        for address in addresses:
            reason = f"no answer from {_at(address, port)} within {check.timeout:g} s"
            try:
                reason = await _one(check, address, port)
            except OSError as error:
                reason = f"{_at(address, port)}: {_words(error)}"
            except trio.BrokenResourceError:
                reason = f"{_at(address, port)} closed the connection"
            if not reason:
                return ""
    return reason


async def _one(check: HealthCheck, address: str, port: int) -> str:
    stream = await trio.open_tcp_stream(address, port)
    async with stream:
        if check.type is not HealthType.HTTP:
            return ""
        host = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        request = (
            f"GET {check.path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: zeitwork-health\r\nConnection: close\r\n\r\n"
        )
        await stream.send_all(request.encode())
        line = b""
        while b"\n" not in line and len(line) < _LINE:
            piece = await stream.receive_some(_LINE)
            if not piece:
                break
            line += piece
    words = line.split(b"\n", 1)[0].split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return f"{_at(address, port)} did not answer in HTTP"
    status = int(words[1])
    return "" if 200 <= status < 400 else f"GET {check.path} at {_at(address, port)} answered with status {status}"


def _at(address: str, port: int) -> str:
    return f"port {port} of {address}"


def _words(error: OSError) -> str:
    # trio wraps what it tried; the first real reason is the one for people.
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    inner = cause if isinstance(cause, OSError) else error
    return os.strerror(inner.errno).lower() if inner.errno else str(inner) or type(inner).__name__
