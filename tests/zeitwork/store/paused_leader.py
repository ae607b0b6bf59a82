"""A leader as a process of its own, to be paused: ``python -m ... DSN HOST BOOT EPOCH TTL idle|open``.

``idle``: leads, says so, waits for a line, then tries to place what is pending. ``open``: has a fenced transaction open
before it says so, and goes on with it after the line; one that the server has ended before that is begun anew. The last
line is what became of it.
"""

from __future__ import annotations

import sys
from uuid import UUID

import trio

from actors.model.errors import Problem, Unavailable
from actors.scheduler.plan import evaluate
from runtime.lease import Fenced, Term
from zeitwork.store import open_store
from zeitwork.store.election import fence
from zeitwork.store.units import Cursor


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def _main(dsn: str, boot: str, epoch: str, ttl: str, how: str) -> None:
    term = Term(int(epoch), UUID(boot), float(ttl))
    async with open_store(dsn) as store:
        plan = evaluate(await store.scheduling.pending(), await store.scheduling.nodes())
        assert plan.assignments
        ready = False

        def unit(cursor: Cursor) -> None:
            nonlocal ready
            fence(cursor, term)
            ready = True
            _say("ready")
            sys.stdin.readline()
            cursor.execute("update nodes set reason = 'written by a paused leader'")

        try:
            if how == "open":
                while not ready:
                    try:
                        await store.units.run(unit, name="open")
                    except Unavailable:
                        if ready:
                            raise
            else:
                _say("ready")
                await trio.to_thread.run_sync(sys.stdin.readline)
                await store.scheduling.apply_plan(plan, term)
        except Fenced:
            _say("fenced")
        except Problem as problem:
            _say(f"refused: {problem.code}")
        else:
            _say("done")


if __name__ == "__main__":
    trio.run(_main, *sys.argv[1:])
