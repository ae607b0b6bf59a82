"""Evaluate, plan, apply: turns desired state into placements. Runs under the leader."""

from __future__ import annotations

import traceback
from uuid import UUID

from actors.model.errors import Problem
from actors.scheduler.counts import Counts
from actors.scheduler.evaluation import Evaluation, Result
from actors.scheduler.messages import Evaluate, Evaluated, EvaluationFailed
from actors.scheduler.relocate import Staying
from actors.scheduler.store import After, SchedulingStore
from runtime import Actor, Message, Timer
from runtime.lease import Fenced
from runtime.office import Office

#: Seconds between evaluations that nobody asked for: a lost notification costs this much time and nothing else.
SLOW_TIMER = 15.0
#: Seconds that one evaluation may take before it is given up and tried again.
EVALUATION_DEADLINE = 30.0
#: First and largest wait in seconds after an evaluation that failed, or whose plan was refused in part.
BACKOFF_FIRST, BACKOFF_MAX = 0.5, 15.0
#: Seconds for which a node that refused something is taken only when no other one fits.
AVOID = 60.0


class Scheduler(Actor):
    """One evaluation at a time; requests that come meanwhile are folded into the next one.

    ``counts`` is given by whoever shows them: it outlasts this actor, which ends with its term of office.
    """

    def __init__(self, store: SchedulingStore, office: Office, counts: Counts | None = None) -> None:
        self._store = store
        self._office = office
        self.counts = counts if counts is not None else Counts()
        #: Instances that stay on hosts that are to be emptied, as of the last evaluation.
        self.staying: tuple[Staying, ...] = ()
        self._busy = False
        self._again = False
        self._failures = 0
        self._resume: After | None = None
        self._avoid: dict[UUID, float] = {}  # until when
        self._timer: Timer | None = None

    async def init(self) -> None:
        """Evaluate once at the start, then on every hint and on a slow timer."""
        self.ctx.every(SLOW_TIMER, Evaluate())
        self.ctx.ref.tell(Evaluate("start"))

    async def receive(self, message: Message) -> None:
        """Start an evaluation, or note that another one is due."""
        match message:
            case Evaluate():
                self._request()
            case Evaluated(result=result):
                self._evaluated(result)
            case EvaluationFailed(error=error):
                self.counts.failures += 1
                self.ctx.log.warning("evaluation failed", error=str(error), retry_in=self._retry())
                self._busy = self._again = False
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
            then=Evaluated,
            failed=EvaluationFailed,
        )

    async def _evaluate(self) -> Result:
        monotonic = self.ctx.env.monotonic
        began = monotonic()
        self._avoid = {node: until for node, until in self._avoid.items() if until > began}
        evaluation = Evaluation(
            self._store,
            self._office.term,
            monotonic,
            self.ctx.env.random,
            self.counts,
            avoid=self._avoid,
            resume=self._resume,
        )
        try:
            return await evaluation.run()
        except Fenced as fenced:
            self._office.doubt(str(fenced))
            raise
        finally:
            self.counts.evaluations += 1
            self.counts.last_seconds = monotonic() - began
            self.counts.seconds += self.counts.last_seconds

    def _evaluated(self, result: Result) -> None:
        self._busy = False
        self._resume = result.resume
        self.staying = result.staying
        if result.placed or result.moved or result.members:
            self.ctx.log.info(
                "evaluated",
                placed=result.placed,
                postponed=result.postponed,
                moved=result.moved,
                members=result.members,
            )
        until = self.ctx.env.monotonic() + AVOID
        self._avoid.update(dict.fromkeys(result.refusals, until))
        for part, error in result.failures:
            # What is no problem of the surroundings is one of ours: the log has to say where. A whole traceback of each
            # evaluation that fails is too much: printing one for a terminal takes seconds.
            where = "" if isinstance(error, Problem) else _where(error)
            self.ctx.log.warning("part of an evaluation failed", part=part, error=repr(error), where=where)
        if result.failures:
            self.counts.failures += 1
        if result.failures or result.refusals:
            self._retry()
        else:
            self._failures = 0
            if result.again_in is not None:
                self._in(result.again_in)
        if self._again or result.more:
            self._request()

    def _retry(self) -> float:
        """Evaluate again in a while that grows with each time in a row; return the seconds."""
        self._failures += 1
        ceiling = min(BACKOFF_MAX, BACKOFF_FIRST * 2 ** min(self._failures, 10))
        wait = self.ctx.env.random.uniform(ceiling / 2, ceiling)
        self._in(wait)
        return round(wait, 2)

    def _in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.ctx.after(seconds, Evaluate("again"))


def _where(error: Exception) -> str:
    """Return the file and line that raised."""
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
