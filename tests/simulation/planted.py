"""Bugs planted in real code for the time of one run; those of the store are switches of its double."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import actors.host.actor
import actors.registrar.inviter
import actors.registrar.watch
import actors.scheduler.actor
import actors.vm.recover
import actors.vm.report
from actors.commands.acceptance import Memory
from actors.registrar.invite import look
from actors.vm.intent import Intent
from actors.vm.recover import Found, Recovery
from runtime.links.connection import Connection, Settled
from runtime.links.frames import Reply
from runtime.membership.claim import Claim, State, join
from runtime.membership.rules import Rules as MembershipRules
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
    if Bug.LATE_COMMAND in bugs:
        patches.append(mock.patch.object(Memory, "accept", lambda memory, command, left: True))
    if Bug.WRONG_REPLY in bugs:
        patches.append(mock.patch.object(Connection, "_settled", _oldest_first(Connection._settled)))
    if Bug.NEVER_SOUGHT in bugs:
        rules = MembershipRules(seek_every=_NEVER, seek_first=_NEVER)
        patches.append(mock.patch("tests.simulation.links.MEMBERSHIP_RULES", rules))
    if Bug.NO_GRACE in bugs:
        patches.append(mock.patch.object(actors.registrar.watch, "GRACE", 0.0))
    if Bug.RAISED_BY_GOSSIP in bugs:
        patches.append(mock.patch("runtime.membership.roster.join", _raising(join)))
    if Bug.NEVER_GIVEN_UP in bugs:
        patches.append(mock.patch.object(actors.registrar.inviter, "look", _patient(look)))
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


def _patient(real: Any) -> Any:
    """Take all who are invited to have time."""

    def looked(state: Any, found: Any, *arguments: Any) -> Any:
        return real(state, [replace(one, left=_NEVER) for one in found], *arguments)

    return looked


def _oldest_first(settled: Any) -> Any:
    """Take answers to come in the order of their requests."""

    def settle(connection: Any, frame: Any) -> Settled:
        if isinstance(frame, Reply) and frame.number in connection._pending:
            frame = replace(frame, number=min(connection._pending))
        result: Settled = settled(connection, frame)
        return result

    return settle


def _raising(real: Any) -> Any:
    """Let whoever believes that a host lives be right."""

    def joined(old: Claim, new: Claim) -> Claim:
        same = (new.generation, new.incarnation) == (old.generation, old.incarnation)
        if same and old.state is State.DEAD and new.state is State.ALIVE:
            return replace(old, state=State.ALIVE, profile=new.profile or old.profile, accusers=())
        result: Claim = real(old, new)
        return result

    return joined
