"""Bugs planted in real code for the time of one run; those of the store are switches of its double."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import actors.host.actor
import actors.scheduler.actor
import actors.vm.recover
import actors.vm.report
from actors.vm.intent import Intent
from actors.vm.recover import Found, Recovery
from tests.actors.vm.simulated import ModelOperations
from tests.simulation.store import Bug
from zeitwork.store.problems import OutcomeUnknown

#: A timer that never comes in any world.
_NEVER = 1e9


class Forgetful(ModelOperations):
    """Starts monitors of which no intent tells."""

    def _intend(self, intent: Intent) -> Callable[[], None]:
        return lambda: None


@contextmanager
def planted(bugs: frozenset[Bug]) -> Iterator[None]:
    """Have these bugs in the code of actors until the block ends."""
    patches: list[Any] = []
    if Bug.NO_SLOW_TIMER in bugs:
        patches.append(mock.patch.object(actors.host.actor, "SLOW_TIMER", _NEVER))
        patches.append(mock.patch.object(actors.scheduler.actor, "SLOW_TIMER", _NEVER))
    if Bug.OUTCOME_ASSUMED in bugs:
        patches.append(mock.patch.object(actors.vm.report, "until_told", _assuming(actors.vm.report.until_told)))
    if Bug.ADOPTED_BLINDLY in bugs:
        patches.append(mock.patch.object(actors.vm.recover, "_judge", _blindly(actors.vm.recover._judge)))
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in reversed(patches):
            patch.stop()


def _assuming(until_told: Any) -> Any:
    """Take a commit without an answer for done."""

    async def told(tell: Callable[[], Awaitable[Any]], *arguments: Any, **what: Any) -> Any:
        async def optimistic() -> Any:
            try:
                return await tell()
            except OutcomeUnknown:
                return True

        return await until_told(optimistic, *arguments, **what)

    return told


def _blindly(judge: Any) -> Any:
    """Take over whatever runs."""

    def found(recovery: Recovery, *arguments: Any) -> Found:
        if recovery.process is None and recovery.strays:
            recovery.process = recovery.strays.pop()
        if recovery.process is not None and recovery.intent is not None:
            return Found.RUNNING
        result: Found = judge(recovery, *arguments)
        return result

    return found
