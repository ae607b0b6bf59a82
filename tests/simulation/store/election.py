"""`zeitwork.store.election` in memory."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from runtime.lease import Candidate, Fenced, Granted, Held, Term
from tests.simulation.store import tables
from tests.simulation.store.bugs import Bug
from tests.simulation.store.database import Transaction, moment
from tests.simulation.store.units import Units
from zeitwork.store.election import TTL, LeaderRow


def fence(tx: Transaction, term: Term) -> None:
    """Let a leader's unit go on only while its term is in office. Raises `Fenced`."""
    tx.term = term
    if Bug.NO_FENCE in tx.bugs:
        return
    row = tx.database.leadership.get(True)
    if row is None:
        raise Fenced(term, "nobody leads")
    if (row.epoch, row.boot) != (term.epoch, term.boot) and Bug.NO_EPOCH_CHECK not in tx.bugs:
        raise Fenced(term, f"epoch {row.epoch} has begun")
    if row.expires_at <= tx.now:
        raise Fenced(term, "its lease has expired")
    seen = max((node.epoch_seen for node in tx.database.nodes), default=0)
    if seen > term.epoch and Bug.NO_EPOCH_CHECK not in tx.bugs:
        raise Fenced(term, f"a host has seen epoch {seen}: the database was restored from a backup")


class Election:
    """`runtime.lease.LeaseStore`."""

    def __init__(self, units: Units) -> None:
        self._units = units
        self._reported: dict[UUID, int] = {}

    async def acquire(self, candidate: Candidate, *, ttl: float = TTL, above: int = 0) -> Granted | Held:
        """Take the lease if it has expired, is this host's from an earlier start, or this process's own."""
        if above > self._reported.get(candidate.host, 0):
            await self._units.run(lambda tx: _report(tx, candidate.host, above), name="election.report")
            self._reported[candidate.host] = above

        def unit(tx: Transaction) -> Granted | Held:
            row = tx.database.leadership.get(True)
            seen = max([above, *(node.epoch_seen for node in tx.database.nodes)])
            free = (
                row is None
                or row.expires_at < tx.now
                or row.boot == candidate.boot
                or (row.node_id == candidate.host and row.generation < candidate.generation)
            )
            if not free:
                assert row is not None
                return Held(row.epoch, row.node_id, row.expires_at - tx.now)
            epoch = max(seen + 1, 0 if row is None else row.epoch + 1)
            tx.database.leadership.put(
                True,
                tables.Leadership(epoch, candidate.host, candidate.generation, candidate.boot, tx.now, tx.now + ttl),
            )
            tx.announce("zw_leader", candidate.host)
            return Granted(epoch)

        return await self._units.run(unit, name="election.acquire")

    async def renew(self, term: Term) -> bool:
        """Make the lease last a whole ttl from now; False when it is another's, over, or too low."""

        def unit(tx: Transaction) -> bool:
            row = tx.database.leadership.get(True)
            if row is None or (row.boot, row.epoch) != (term.boot, term.epoch) or row.expires_at <= tx.now:
                return False
            if any(node.epoch_seen > term.epoch for node in tx.database.nodes):
                return False
            tx.database.leadership.put(True, replace(row, expires_at=tx.now + term.ttl))
            return True

        return await self._units.run(unit, name="election.renew")

    async def resign(self, term: Term) -> None:
        """Give the lease back and tell the others."""

        def unit(tx: Transaction) -> None:
            row = tx.database.leadership.get(True)
            if row is not None and (row.boot, row.epoch) == (term.boot, term.epoch):
                tx.database.leadership.put(True, replace(row, expires_at=0.0))
                tx.announce("zw_leader", row.node_id)

        await self._units.run(unit, name="election.resign")

    async def leader(self) -> LeaderRow | None:
        """Return who leads or led last, None before the first election."""

        def unit(tx: Transaction) -> LeaderRow | None:
            row = tx.database.leadership.get(True)
            if row is None:
                return None
            node = tx.database.nodes.get(row.node_id)
            assert node is not None
            return LeaderRow(row.epoch, row.node_id, node.hostname, moment(row.elected_at), row.expires_at > tx.now)

        return await self._units.read(unit, name="election.leader")


def _report(tx: Transaction, node_id: UUID, epoch: int) -> None:
    node = tx.database.nodes.get(node_id)
    if node is not None and node.epoch_seen < epoch:
        tx.database.nodes.put(node_id, replace(node, epoch_seen=epoch))
