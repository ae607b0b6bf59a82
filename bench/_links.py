"""Hosts with links to each other in this one process, and what time a question takes."""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from runtime import Spec, System
from runtime.links.board import Board
from runtime.links.frames import Hello, Identity
from runtime.links.links import Links, links
from runtime.links.receiver import SystemReceiver
from runtime.links.registry import Registry
from runtime.links.transport import PlainTransport, TlsTransport
from zeitwork.trust import certificates
from zeitwork.trust.files import Credentials, TrustFiles

CLUSTER = UUID(int=1)
#: Seconds for one question.
TIMEOUT = 60.0
_AUTHORITY = functools.cache(lambda: certificates.new_authority(CLUSTER, certificates.now()))


def issue(directory: Path, number: int) -> TrustFiles:
    """Write a host's credentials."""
    files, key, authority = TrustFiles(directory / str(number)), certificates.new_key(), _AUTHORITY()
    asked, host = certificates.request(key), UUID(int=number)
    pem = certificates.sign(authority, asked, cluster=CLUSTER, host=host, now=certificates.now())
    files.save(Credentials(key, pem, authority.certificate))
    return files


async def timed(count: int, once: Callable[[], Awaitable[Any]]) -> float:
    """Return how many microseconds one takes, of ``count`` one after the other."""
    for _ in range(20):
        await once()
    began = time.perf_counter()
    for _ in range(count):
        await once()
    return (time.perf_counter() - began) / count * 1e6


@asynccontextmanager
async def linked_host(
    number: int, files: TrustFiles | None, registry: Registry, specs: Sequence[Spec]
) -> AsyncIterator[tuple[System, Board, Links]]:
    """Run a host with these actors; with ``files`` over TLS."""
    async with System() as system:
        board = Board(UUID(int=number), system.env.monotonic)
        transport = (
            PlainTransport()
            if files is None
            else TlsTransport("127.0.0.1", 0, files.contexts, lambda shown: certificates.prove(shown, CLUSTER))
        )
        local = Hello(CLUSTER, Identity(UUID(int=number), 1))
        actor = Links(board, transport, local, registry, SystemReceiver(system, registry))
        for spec in specs:
            await system.start(spec)
        await system.start(links(lambda: actor))
        yield system, board, actor
