"""What the leader does to both stores, sensible or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from actors.commands.store import Note, Step
from actors.registrar.store import Beat
from actors.scheduler.groups import reconcile
from actors.scheduler.plan import Planner, evaluate
from actors.scheduler.relocate import relocate
from actors.scheduler.store import Assignment, GroupChange, Move, Moved, Plan, Postponed
from runtime.lease import Candidate, Granted, Term
from tests.zeitwork.store.contract.frame import NOBODY, UNKNOWN, Frame, Refs

#: A term that `Both.term` begins lasts longer than a person waits.
_LONG = 1000.0


class Leader(Frame):
    """Elections, and what a leader decides."""

    def acquire(self, node: int, ttl: float = 10.0, above: int = 0, boot: int = 0) -> None:
        """Let a process want to lead; the same ``boot`` is the same process."""

        async def call(store: Any, refs: Refs) -> Any:
            candidate = Candidate(refs.pick("nodes", node), boot + 1, UUID(int=500 + boot))
            return await store.election.acquire(candidate, ttl=ttl, above=above)

        if not self.ids[0].lists["nodes"] or node == UNKNOWN:
            return
        result = self.call(f"acquire({node}, {ttl}, {above}, {boot})", call)
        if isinstance(result, Granted):
            self.terms.append(Term(result.epoch, UUID(int=500 + boot), ttl))

    def renew(self, ended: int = 0) -> None:
        if self.terms:
            term = self._term(ended)
            self.call(f"renew({ended})", lambda store, refs: store.election.renew(term))

    def resign(self, ended: int = 0) -> None:
        if self.terms:
            term = self._term(ended)
            self.call(f"resign({ended})", lambda store, refs: store.election.resign(term))

    def term(self, ended: int = 0) -> Term:
        """Return a term that is in office, begun if need be; with ``ended`` one that was so many terms ago."""
        if ended:
            return self._term(ended) if self.terms else Term(77, UUID(int=77), 10.0)
        if not self.terms or not self.call(
            "renew", lambda store, refs: store.election.renew(self._term(0)), look=False
        ):
            # Whoever leads may have a lease for long: a process of the same host takes it over.
            self._candidates += 1
            boot, generation = UUID(int=600 + self._candidates), 1000 + self._candidates

            async def call(store: Any, refs: Refs) -> Any:
                leader = await store.election.leader()
                host = refs.pick("nodes", 0) if leader is None else leader.node_id
                return await store.election.acquire(Candidate(host, generation, boot), ttl=_LONG, above=0)

            granted = self.call("acquire", call, look=False)
            assert isinstance(granted, Granted)
            self.terms.append(Term(granted.epoch, boot, _LONG))
        return self._term(0)

    def _term(self, ended: int) -> Term:
        return self.terms[-1 - min(ended, len(self.terms) - 1)]

    def mark_down(self, node: int, late: bool = False, ended: int = 0, grace: float = 0.0) -> None:
        """Find a host dead, or with ``late`` one that has given a sign of life since; ``grace`` in seconds."""
        term = self.term(ended)

        async def call(store: Any, refs: Refs) -> Any:
            beats = await store.presence.beats()
            if not beats:
                return None
            beat: Beat = beats[node % len(beats)]
            return await store.presence.mark_down(
                replace(beat, seen=beat.seen - 5) if late else beat, "silent", term, grace=grace
            )

        self.call(f"mark_down({node}, {late}, {ended}, {grace})", call)

    def commands(self, own: int, limit: int = 5000, ended: int = 0) -> None:
        """Look for what hosts are to be told, and write that they were."""
        term = self.term(ended)

        async def call(store: Any, refs: Refs) -> Any:
            orders = await store.commands.outstanding(refs.pick("nodes", own), term, limit)
            steps: tuple[Step, ...] = ("sent", "taken", "refused", "unreachable")
            notes = [Note(steps[at % len(steps)], order, at, "it was so") for at, order in enumerate(orders)]
            await store.commands.record(notes, term)
            return orders

        self.call(f"commands({own}, {limit}, {ended})", call)

    def reconcile(self, chance: float = 0.5, ended: int = 0) -> None:
        """Do about groups what the scheduler would."""
        term = self.term(ended)

        async def call(store: Any, refs: Refs) -> Any:
            changes = [reconcile(view, chance) for view in await store.scheduling.groups()]
            return await store.scheduling.apply_groups(tuple(one for one in changes if one is not None), term)

        self.call(f"reconcile({chance}, {ended})", call)

    def change_group(
        self,
        group: int,
        late: int = 0,
        create: tuple[int, ...] = (),
        terminate: tuple[int, ...] = (),
        failures: int | None = None,
        retry_in: float | None = None,
        gone: bool = False,
        twice: bool = False,
    ) -> None:
        """Do anything about a group."""
        term = self.term()

        async def call(store: Any, refs: Refs) -> Any:
            group_id = refs.pick("groups", group)
            generation = 1 if group_id == NOBODY else (await store.groups.get(group_id)).generation - late
            ended = tuple(refs.pick("instances", one) for one in terminate)
            change = GroupChange(group_id, generation, create, ended, failures, retry_in, gone)
            first = await store.scheduling.apply_groups((change,), term)
            return first, await store.scheduling.apply_groups((change, change), term) if twice else 0

        self.call(
            f"change_group({group}, {late}, {create}, {terminate}, {failures}, {retry_in}, {gone}, {twice})", call
        )

    def evaluate(self, page: int = 5000, ended: int = 0, twice: bool = False) -> None:
        """Do about what is pending what the scheduler would, a page at a time."""
        term = self.term(ended)

        async def call(store: Any, refs: Refs) -> Any:
            after, done = None, []
            while True:
                pending = await store.scheduling.pending(after, page)
                plan = evaluate(pending, await store.scheduling.nodes())
                done.append((pending, plan, await store.scheduling.apply_plan(plan, term)))
                if twice:
                    done.append((await store.scheduling.apply_plan(plan, term),))
                after = pending.after
                if after is None:
                    return done

        self.call(f"evaluate({page}, {ended}, {twice})", call)

    def assign(
        self, choices: Sequence[tuple[int, int, int]], postponed: Sequence[tuple[int, int, bool]], ended: int = 0
    ) -> None:
        """Place anything anywhere, legal or not, and postpone anything: instances, generations too low, nodes."""
        term = self.term(ended)

        async def call(store: Any, refs: Refs) -> Any:
            assignments = [
                Assignment(*await _wanted(store, refs, instance, late), refs.pick("nodes", node))
                for instance, late, node in choices
            ]
            reasons = [
                Postponed(*await _wanted(store, refs, instance, late), "no room", final)
                for instance, late, final in postponed
            ]
            return await store.scheduling.apply_plan(Plan(tuple(assignments), tuple(reasons)), term)

        self.call(f"assign({choices}, {postponed}, {ended})", call)

    def relocate(self, ended: int = 0, twice: bool = False) -> None:
        """Do about what is on dead and draining hosts what the scheduler would."""
        term = self.term(ended)

        async def call(store: Any, refs: Refs) -> Any:
            planner = Planner(await store.scheduling.nodes())
            decided = relocate(await store.scheduling.displaced(), planner)
            first = await store.scheduling.apply_moves(decided.moves, term)
            return decided, first, await store.scheduling.apply_moves(decided.moves, term) if twice else 0

        self.call(f"relocate({ended}, {twice})", call)

    def move(self, moves: Sequence[tuple[int, int, Move]], ended: int = 0) -> None:
        """Move any placements in any way, whether that is sensible or not: placements, generations too low, moves."""
        term = self.term(ended)
        keys = [self.find(number) for number, _, _ in moves]

        async def call(store: Any, refs: Refs) -> Any:
            decided = []
            for (number, late, what), key in zip(moves, keys, strict=True):
                instance = number if key is None else key[0]
                wanted = await _wanted(store, refs, instance, late)
                decided.append(Moved(*wanted, refs.placement(key), what, f"for {what}"))
            return await store.scheduling.apply_moves(tuple(decided), term)

        self.call(f"move({moves}, {ended})", call)


async def _wanted(store: Any, refs: Refs, instance: int, late: int) -> tuple[UUID, int]:
    """Return an instance and its present generation, or one that is so much lower."""
    instance_id = refs.pick("instances", instance)
    return instance_id, 1 if instance_id == NOBODY else (await store.instances.get(instance_id)).generation - late
