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
    failures, fatal = error.split(Exception)
    if fatal is None:
        return None, error
    leaves = list(_leaves(fatal))
    first = next((leaf for leaf in leaves if not isinstance(leaf, trio.Cancelled)), leaves[0])
    return failures if isinstance(failures, Exception) else None, first


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            found.extend(_leaves(error))
        else:
            found.append(error)
    return found
