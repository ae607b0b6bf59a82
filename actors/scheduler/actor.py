"""Evaluate, plan, apply: turns desired state into placements. Runs under the leader."""

from __future__ import annotations

from actors.scheduler.messages import Evaluate, Evaluated, EvaluationFailed
from actors.scheduler.plan import evaluate
from actors.scheduler.store import SchedulingStore
from runtime import Actor, Message
from runtime.lease import Fenced
from runtime.office import Office

#: Seconds between evaluations that nobody asked for: a lost notification costs this much time and nothing else.
SLOW_TIMER = 15.0
#: Seconds that one evaluation may take before it is given up and tried again.
EVALUATION_DEADLINE = 30.0
#: First and largest wait in seconds after an evaluation that failed.
BACKOFF_FIRST, BACKOFF_MAX = 0.5, 15.0


class Scheduler(Actor):
    """One evaluation at a time; requests that come meanwhile are folded into the next one."""

    def __init__(self, store: SchedulingStore, office: Office) -> None:
        self._store = store
        self._office = office
        self._busy = False
        self._again = False
        self._failures = 0

    async def init(self) -> None:
        """Evaluate once at the start, then on every hint and on a slow timer."""
        self.ctx.every(SLOW_TIMER, Evaluate())
        self.ctx.ref.tell(Evaluate("start"))

    async def receive(self, message: Message) -> None:
        """Start an evaluation, or note that another one is due."""
        match message:
            case Evaluate():
                self._request()
            case Evaluated(placed=placed, postponed=postponed):
                self._failures = 0
                if placed:
                    self.ctx.log.info("instances placed", placed=placed, postponed=postponed)
                self._finish()
            case EvaluationFailed(error=error):
                self._failures += 1
                ceiling = min(BACKOFF_MAX, BACKOFF_FIRST * 2 ** min(self._failures, 10))
                wait = self.ctx.env.random.uniform(ceiling / 2, ceiling)
                self.ctx.log.warning("evaluation failed", error=str(error), retry_in=round(wait, 2))
                self._busy = self._again = False
                self.ctx.after(wait, Evaluate("retry"))
            case _:
                self.ctx.log.warning("unknown message", message=type(message).__name__)

    def _request(self) -> None:
        if self._busy:
            self._again = True
            return
        self._busy, self._again = True, False
        self.ctx.effect(
            self._evaluate,
            name="evaluate",
            deadline=EVALUATION_DEADLINE,
            then=lambda result: result,
            failed=EvaluationFailed,
        )

    def _finish(self) -> None:
        self._busy = False
        if self._again:
            self._request()

    async def _evaluate(self) -> Evaluated:
        plan = evaluate(await self._store.pending(), await self._store.nodes())
        if not plan.assignments and not plan.postponed:
            return Evaluated(0, 0)
        # Asked now, not when the evaluation began: that may be long ago.
        term = self._office.term()
        try:
            refused = await self._store.apply_plan(plan, term)
        except Fenced as fenced:
            self._office.doubt(str(fenced))
            raise
        return Evaluated(len(plan.assignments) - len(refused), len(plan.postponed) + len(refused))
