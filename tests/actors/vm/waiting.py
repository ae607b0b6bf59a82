"""Waiting for what only another process can bring about."""

from __future__ import annotations

from collections.abc import Callable

import trio


async def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - another process brings it about
            await trio.sleep(0.002)
