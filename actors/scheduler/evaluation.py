"""One evaluation: groups, then what is on dead or draining hosts, then what is pending."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar
from uuid import UUID

import trio

from actors.model.errors import Unavailable
from actors.model.records import PendingInstance
from actors.scheduler.counts import Counts
from actors.scheduler.groups import AT_ONCE, reconcile
from actors.scheduler.plan import Planner
from actors.scheduler.queue import in_turn, merged
from actors.scheduler.relocate import Staying, relocate
from actors.scheduler.store import After, Assignment, GroupChange, Pending, Plan, Postponed, SchedulingStore
from runtime.lease import Fenced, NotLeading, Term

#: Instances that are asked for at a time, and how often in one evaluation: what is behind them is the next one's.
PAGE, PAGES = 5000, 40
#: Instances that are planned before others have the loop.
STEP = 128
#: Decisions that are written together: at first, at least and at most. Twice as many after a batch that took less than
#: `QUICK` seconds, half as many after one that took more than twice that.
BATCH, BATCH_MIN, BATCH_MAX = 512, 64, 4096
QUICK = 1.0
#: Members of groups that are made or ended, and moves, that are written in one transaction.
TOGETHER = 128
#: Seconds after which an evaluation ends with the batch it is at and leaves the rest to the next one, which looks anew:
#: what happens to hosts and groups must not wait for a hundred thousand placements.
SLICE = 5.0

T = TypeVar("T")


@dataclass(slots=True)
class Result:
    """What one evaluation did, and what is left to do.

    ``resume`` is where the next one begins with what is pending, None: in front. ``refusals`` are nodes of assignments
    that were not accepted. ``again_in``: a group wants to be looked at in so many seconds. ``failures`` are parts that
    could not be done, beside which the others were.
    """

    placed: int = 0
    postponed: int = 0
    moved: int = 0
    members: int = 0
    more: bool = False
    resume: After | None = None
    again_in: float | None = None
    refusals: set[UUID] = field(default_factory=set)
    staying: tuple[Staying, ...] = ()
    failures: list[tuple[str, Exception]] = field(default_factory=list)


class Evaluation:
    """Runs once. ``term`` is asked before each write: an evaluation may outlast the term that it began in."""

    def __init__(
        self,
        store: SchedulingStore,
        term: Callable[[], Term],
        monotonic: Callable[[], float],
        chance: random.Random,
        counts: Counts,
        *,
        avoid: Container[UUID] = (),
        resume: After | None = None,
    ) -> None:
        self._store = store
        self._term = term
        self._monotonic = monotonic
        self._random = chance
        self._counts = counts
        self._avoid = avoid
        self._resume = resume
        self._planner: Planner | None = None
        self._result = Result()

    async def run(self) -> Result:
        """Evaluate. Raises `Fenced`, `NotLeading` and `Unavailable`; other errors of a part are in the result.

        They end that part only: a group that nobody can count must not keep anything from being placed.
        """
        await self._part("groups", self._reconcile)
        await self._part("moves", self._relocate)
        await self._part("placements", self._place)
        return self._result

    async def _part(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except (Fenced, NotLeading, Unavailable):
            raise
        except Exception as error:
            self._result.failures.append((name, error))

    async def _reconcile(self) -> None:
        changes: list[GroupChange] = []
        waits: list[float] = []
        for group in await self._store.groups():
            change = reconcile(group, self._random.random())
            wait = group.retry_in if change is None or change.retry_in is None else change.retry_in
            if wait > 0:
                waits.append(wait)
            if change is not None:
                changes.append(change)
        self._result.again_in = min(waits, default=None)
        for together in _in_parts(changes, lambda change: 1 + len(change.create) + len(change.terminate)):
            members = await self._store.apply_groups(together, self._term())
            self._result.members += members
            self._counts.members += members
        parts = any(max(len(change.create), len(change.terminate)) >= AT_ONCE for change in changes)
        self._result.more = parts and self._result.members > 0

    async def _relocate(self) -> None:
        displaced = await self._store.displaced()
        if not displaced:
            return
        relocation = relocate(displaced, await self._nodes())
        self._result.staying = relocation.staying
        for together in _in_parts(relocation.moves, lambda _: 1):
            done = await self._store.apply_moves(together, self._term())
            self._result.moved += done
            self._counts.moved += done

    async def _place(self) -> None:
        pages = await self._pages()
        self._counts.pending = sum(len(page.instances) for page in pages)
        if not self._counts.pending:
            return
        began = self._monotonic()
        planner = await self._nodes()
        for page in pages:
            planner.learn(page)
        turns = merged(page.instances for page in pages)
        del pages  # what is planned need not be kept
        size = BATCH
        while True:
            plan, ended = await self._planned(planner, turns, size)
            before = self._monotonic()
            await self._apply(plan)
            now = self._monotonic()
            if ended:
                self._result.more |= self._result.resume is not None
                return
            if now - began >= SLICE:
                # What is left is on the same pages.
                self._result.more, self._result.resume = True, self._resume
                return
            if now - before < QUICK:
                size = min(BATCH_MAX, 2 * size)
            elif now - before > 2 * QUICK:
                size = max(BATCH_MIN, size // 2)

    async def _pages(self) -> list[Pending]:
        """Return what is pending, each page in turn; where the next evaluation begins is in the result."""
        pages: list[Pending] = []
        after = self._resume
        for _ in range(PAGES):
            page = await self._store.pending(after, PAGE)
            pages.append(replace(page, instances=tuple(in_turn(page.instances))))
            after = page.after
            if after is None:
                break
        self._result.resume = after
        return pages

    async def _nodes(self) -> Planner:
        """Return the planner, made of one look at the nodes; all of an evaluation is planned on that."""
        if self._planner is None:
            self._planner = Planner(await self._store.nodes(), self._avoid)
        return self._planner

    async def _planned(self, planner: Planner, turns: Iterator[PendingInstance], size: int) -> tuple[Plan, bool]:
        """Plan the next batch, and say whether it was the last one."""
        assignments: list[Assignment] = []
        postponed: list[Postponed] = []
        while len(assignments) + len(postponed) < size:
            step = tuple(islice(turns, STEP))
            plan = planner.plan(step)
            assignments += plan.assignments
            postponed += plan.postponed
            if len(step) < STEP:
                return Plan(tuple(assignments), tuple(postponed)), True
            await trio.lowlevel.checkpoint()
        return Plan(tuple(assignments), tuple(postponed)), False

    async def _apply(self, plan: Plan) -> None:
        if not plan.assignments and not plan.postponed:
            return
        refused = await self._store.apply_plan(plan, self._term())
        nodes = {assignment.instance_id: assignment.node_id for assignment in plan.assignments}
        self._result.refusals.update(nodes[one.instance_id] for one in refused if one.instance_id in nodes)
        placed = len(plan.assignments) - len(refused)
        self._result.placed += placed
        self._result.postponed += len(plan.postponed)
        self._counts.placed += placed
        self._counts.postponed += len(plan.postponed)
        self._counts.refused += len(refused)


def _in_parts(items: Iterable[T], size: Callable[[T], int]) -> Iterator[tuple[T, ...]]:
    """Yield the items in parts of about `TOGETHER`."""
    part: list[T] = []
    total = 0
    for item in items:
        part.append(item)
        total += size(item)
        if total >= TOGETHER:
            yield tuple(part)
            part, total = [], 0
    if part:
        yield tuple(part)
