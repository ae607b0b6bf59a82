"""One thing done on both stores, and a look at both after it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any
from uuid import UUID

import trio

from actors.model.errors import Problem
from runtime.lease import Fenced, Term
from tests.simulation.store import Bug
from tests.zeitwork.store.contract.look import Ids, learn_double, learn_real, look_double, look_real
from tests.zeitwork.store.contract.plain import Plain, differences
from tests.zeitwork.store.contract.sides import Memory, Postgres
from zeitwork.store.leases import REST

#: An id that nothing has, and a pick that means it.
NOBODY, UNKNOWN = UUID(int=99), 9
Call = Callable[[Any, "Refs"], Coroutine[Any, Any, Any]]


class Different(AssertionError):
    """The two stores are not the same any more."""


class Refs:
    """Ids of one side by the numbers that operations pick them with."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids

    def pick(self, kind: str, number: int) -> UUID:
        """Return the id of that number (modulo how many there are); nobody's for `UNKNOWN` and while there is none."""
        found = self._ids.lists[kind]
        return NOBODY if number == UNKNOWN or not found else found[number % len(found)]

    def placement(self, key: tuple[int, int] | None) -> UUID:
        """Return the id of a placement by the place of its instance and its generation."""
        return NOBODY if key is None else self._ids.placements[key]

    def id_of(self, name: str) -> UUID:
        """Return what is called that."""
        return next(identifier for identifier, known in self._ids.names.items() if known == name)


class Frame:
    """Drives both. Every operation ends with a look at both; `Different` tells what the look found."""

    def __init__(self, real: Postgres, bugs: frozenset[Bug] = frozenset()) -> None:
        self.real, self.double = real, Memory(REST, bugs)
        self.ids = Ids(), Ids()
        self.refs = Refs(self.ids[0]), Refs(self.ids[1])
        self.terms: list[Term] = []
        self._candidates = 0
        real.empty()

    def call(self, what: str, call: Call, *, look: bool = True) -> Any:
        """Do one thing on both sides, compare what comes of it and what is told, and return Postgres's result."""
        self.real.units.nows.clear()
        self.real.units.wrote = self.double.wrote = False
        result, outcome = self._outcome(0, self.real, call)
        self.double.clock.show(self.real.units.nows)
        _, same = self._outcome(1, self.double, call)
        found = differences(outcome, same, "result")
        # What changed nothing needs no look, and that is most of what is refused.
        if not found and look and (self.real.units.wrote or self.double.wrote):
            found = self._compare()
        self._check(what, found)
        return result

    @staticmethod
    def _check(what: str, found: list[str]) -> None:
        if found:
            raise Different("\n".join((f"after {what}:", *found[:20])))

    def _outcome(self, side: int, store: Postgres | Memory, call: Call) -> tuple[Any, Any]:
        result = outcome = None
        try:
            result = trio.run(_wait_for, call, store.store, self.refs[side])
        except Problem as problem:
            outcome = {"refused": type(problem).__name__, "code": problem.code, "field": problem.field}
        except Fenced as fenced:
            outcome = {"fenced": str(fenced)}
        if store.wrote:
            self._learn(side)
        return result, {"result": self._plain(side).of(result)} if outcome is None else outcome

    def _learn(self, side: int) -> None:
        if side == 0:
            learn_real(self.real, self.ids[0])
        else:
            learn_double(self.double, self.ids[1])

    def _plain(self, side: int) -> Plain:
        return Plain(self.ids[side].names, (self.real, self.double)[side].now)

    def _compare(self) -> list[str]:
        events, notices = zip(self.real.told(), self.double.told(), strict=True)
        found = differences(self._events(0, events[0]), self._events(1, events[1]), "events")
        found += differences(self._notices(0, notices[0]), self._notices(1, notices[1]), "notices")
        self.real.units.nows.clear()
        real = look_real(self.real, self.ids[0])
        self.double.clock.show(self.real.units.nows)
        self.double.clock.next()
        return found + differences(real, look_double(self.double, self.ids[1]))

    def _events(self, side: int, events: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
        """Return events by their subject: in which order those of several come matters to nobody."""
        plain, found = self._plain(side), dict[str, list[Any]]()
        for one in events:
            told = {name: plain.of(one[name]) for name in ("who", "what", "data")}
            found.setdefault(f"{one['subject_kind']}: {plain.of(one['subject_id'])}", []).append(told)
        return found

    def _notices(self, side: int, notices: Sequence[tuple[str, str]]) -> list[str]:
        plain = self._plain(side)
        # The ids of events are their database's own.
        return sorted({f"{channel} {'' if channel == 'zw_events' else plain.of(what)}" for channel, what in notices})


async def _wait_for(call: Call, store: Any, refs: Refs) -> Any:
    return await call(store, refs)
