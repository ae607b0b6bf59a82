"""The lease of leadership. Writes the table ``leadership``.

All times are the database's: no host's clock is asked. A leader's transaction begins with `fence`; what it locks makes
an election wait until that transaction has ended, and its time limits make sure that it ends, even when the process
that has it open was paused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg import errors

from runtime.lease import Candidate, Fenced, Granted, Held, Term
from zeitwork.store.journal import announce
from zeitwork.store.nodes import report_epoch
from zeitwork.store.units import Cursor, Units

#: Seconds that a lease lasts unless renewed.
TTL = 10.0
#: The share of a ttl that a leader's transaction may take: below the third after which the lease is renewed.
FENCED_SHARE = 0.3
#: Seconds for a statement about the lease, on a connection that nothing else uses. Locks get half of it, which is
#: longer than any leader's transaction may hold one.
STATEMENT_TIMEOUT = 8.0
#: Seconds after which the server ends a transaction about the lease whose client is silent. A leader that is cut off
#: as it commits a renewal holds the row that its successor needs: for no longer than its other transactions may.
IDLE_TIMEOUT = TTL * FENCED_SHARE

# A host's own lease from an earlier start is taken over without a wait. That is safe: generations are counted by the
# database as a process registers, which it does while it holds the lock of its data directory, and the kernel drops
# that lock only with the earlier process. (Two copies of one data directory would break this; then the earlier one's
# transactions are refused like those of any other leader that was replaced.) A process may also take its own lease
# again: it does so when the answer to its last attempt was lost, and has no term of its own then.
_ACQUIRE = """
insert into leadership as l (epoch, node_id, generation, boot, expires_at)
values (greatest(%(above)s, (select max(epoch_seen) from nodes)) + 1, %(node)s, %(generation)s, %(boot)s,
    clock_timestamp() + make_interval(secs => %(ttl)s))
on conflict (singleton) do update set
    epoch = greatest(l.epoch + 1, excluded.epoch), node_id = excluded.node_id, generation = excluded.generation,
    boot = excluded.boot, elected_at = clock_timestamp(),
    expires_at = clock_timestamp() + make_interval(secs => %(ttl)s)
where l.expires_at < clock_timestamp() or l.boot = excluded.boot
    or (l.node_id = excluded.node_id and l.generation < excluded.generation)
returning epoch
"""
# Changes no key, so a leader's renewal never waits for its own transactions. One whose epoch is not above what hosts
# have seen was elected on a restored backup before they reported: it has to be elected again.
_RENEW = """
update leadership set expires_at = clock_timestamp() + make_interval(secs => %(ttl)s)
where boot = %(boot)s and epoch = %(epoch)s and expires_at > clock_timestamp()
    and not exists (select from nodes where epoch_seen > %(epoch)s)
"""


@dataclass(frozen=True, slots=True)
class LeaderRow:
    """Who leads, or led last: ``leading`` is False once the lease has expired or was given back."""

    epoch: int
    node_id: UUID
    hostname: str
    elected_at: datetime
    leading: bool


def fence(cursor: Cursor, term: Term) -> None:
    """Let the unit go on only while ``term`` is in office, and keep any successor from it until the unit has ended.

    The first statement of every transaction of a leader. Hosts refuse an epoch below one that they have seen: they
    report that one, and no leader below it writes any more. Raises `Fenced`. The transaction is ended by the server
    after `FENCED_SHARE` of the ttl at which its client was silent (before PostgreSQL 17), or which it took (from 17
    on): a paused leader blocks nobody for longer.
    """
    limit = f"{int(term.ttl * FENCED_SHARE * 1000)}ms"
    names = ["idle_in_transaction_session_timeout", "statement_timeout", "lock_timeout"]
    if cursor.connection.info.server_version >= 170000:
        names.append("transaction_timeout")
    cursor.execute("select set_config(name, %s, true) from unnest(%s::text[]) as name", (limit, names))
    # Not `for share`: that would make renewals wait, too. An election changes the epoch, which is a key.
    cursor.execute(
        "select epoch, boot, expires_at > clock_timestamp() as valid, (select max(epoch_seen) from nodes) as seen "
        "from leadership for key share"
    )
    row = cursor.fetchone()
    if row is None:
        raise Fenced(term, "nobody leads")
    if (row["epoch"], row["boot"]) != (term.epoch, term.boot):
        raise Fenced(term, f"epoch {row['epoch']} has begun")
    if not row["valid"]:
        raise Fenced(term, "its lease has expired")
    if (row["seen"] or 0) > term.epoch:
        raise Fenced(term, f"a host has seen epoch {row['seen']}: the database was restored from a backup")
    cursor.epoch = term.epoch


class Election:
    """`runtime.lease.LeaseStore` on Postgres.

    ``reserved`` runs what must not wait behind other work: acquiring, renewing and resigning.
    """

    def __init__(self, units: Units, reserved: Units) -> None:
        self._units = units
        self._reserved = reserved
        self._reported: dict[UUID, int] = {}

    async def acquire(self, candidate: Candidate, *, ttl: float = TTL, above: int = 0) -> Granted | Held:
        """Take the lease if it has expired, is this host's from an earlier start, or this process's own.

        ``above`` is the highest epoch that this host has seen; it is reported first, so that others exceed it, too.
        """
        await self._report(candidate.host, above)

        def unit(cursor: Cursor) -> Granted | Held:
            values = {
                "above": above,
                "node": candidate.host,
                "generation": candidate.generation,
                "boot": candidate.boot,
                "ttl": ttl,
            }
            cursor.execute(_ACQUIRE, values)
            row = cursor.fetchone()
            if row is not None:
                announce(cursor, "zw_leader", candidate.host)
                return Granted(row["epoch"])
            cursor.execute(
                "select epoch, node_id, extract(epoch from expires_at - clock_timestamp())::float as remaining "
                "from leadership"
            )
            row = cursor.fetchone()
            assert row is not None  # it is what was in the way, and is never deleted
            return Held(row["epoch"], row["node_id"], row["remaining"])

        try:
            return await self._reserved.run(unit, name="election.acquire")
        except errors.UniqueViolation:
            # Two wrote the first row ever at the same moment, with the same epoch. It is there now: once more.
            return await self._reserved.run(unit, name="election.acquire")

    async def renew(self, term: Term) -> bool:
        """Make the lease last a whole ttl from now; False when it is another's, has expired, or has too low an epoch.

        An expired one is never revived, even if nobody took it: its holder has stopped believing in it.
        """

        def unit(cursor: Cursor) -> bool:
            cursor.execute(_RENEW, {"boot": term.boot, "epoch": term.epoch, "ttl": term.ttl})
            return cursor.rowcount == 1

        return await self._reserved.run(unit, name="election.renew")

    async def resign(self, term: Term) -> None:
        """Give the lease back and tell the others, who would find out by themselves a little later."""

        def unit(cursor: Cursor) -> None:
            cursor.execute(
                "update leadership set expires_at = 'epoch' where boot = %s and epoch = %s returning node_id",
                (term.boot, term.epoch),
            )
            row = cursor.fetchone()
            if row is not None:
                announce(cursor, "zw_leader", row["node_id"])

        await self._reserved.run(unit, name="election.resign")

    async def leader(self) -> LeaderRow | None:
        """Return who leads or led last, None before the first election."""

        def unit(cursor: Cursor) -> LeaderRow | None:
            cursor.execute(
                "select l.epoch, l.node_id, n.hostname, l.elected_at, l.expires_at > clock_timestamp() as leading "
                "from leadership l join nodes n on n.id = l.node_id"
            )
            row = cursor.fetchone()
            return None if row is None else LeaderRow(**row)

        return await self._units.read(unit, name="election.leader")

    async def _report(self, node_id: UUID, epoch: int) -> None:
        """Write the highest epoch that a host has seen. In a transaction of its own: it locks in another order."""
        if epoch <= self._reported.get(node_id, 0):
            return

        await self._reserved.run(lambda cursor: report_epoch(cursor, node_id, epoch), name="election.report")
        self._reported[node_id] = epoch
