"""Telling failures of an actor's own code from what must pass through it."""

from __future__ import annotations

import trio


def sift(error: BaseException) -> tuple[Exception | None, BaseException | None]:
    """Split what was raised into ``(failure, fatal)``.

    A failure is data for a supervisor. ``Cancelled`` never is one, and neither are ``KeyboardInterrupt`` and
    ``SystemExit``; a group may hold both sorts at once. Of several fatal ones, a ``Cancelled`` comes last.
    """
    if isinstance(error, Exception):
        return error, None
    if not isinstance(error, BaseExceptionGroup):
        return None, error
    failures, _ = error.split(Exception)
    fatal = [leaf for leaf in _leaves(error) if not isinstance(leaf, Exception)]
    first = next((leaf for leaf in fatal if not isinstance(leaf, trio.Cancelled)), fatal[0])
    return failures if isinstance(failures, Exception) else None, first


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            found.extend(_leaves(error))
        else:
            found.append(error)
    return found
