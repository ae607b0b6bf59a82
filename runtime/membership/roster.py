"""Everybody there is, was lately, or was heard of."""

from __future__ import annotations

import random as stdlib_random
from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID

from runtime.membership.claim import Claim, State, join
from runtime.membership.events import Member, Notice, Peer, kinds, live
from runtime.membership.pool import Pool, Round
from runtime.membership.suspicion import Suspicion


class Record:
    """What is known of one host."""

    __slots__ = ("claim", "doubted", "noticed", "since", "suspicion")

    def __init__(self, claim: Claim, since: float) -> None:
        self.claim = claim
        #: When its state became what it is.
        self.since = since
        self.suspicion: Suspicion | None = None
        #: Nobody has said so since this host stood still for long: not to be told as news of today.
        self.doubted = False
        #: Whether a notice was given of this life. Who is dead when first heard of is never told of.
        self.noticed = False

    @property
    def peer(self) -> Peer:
        """Where it is reached."""
        return Peer(self.claim.host, self.claim.profile.address if self.claim.profile is not None else "")

    def aged(self, now: float) -> Claim:
        """Return its claim with its age, if it is dead."""
        if self.claim.state < State.DEAD:
            return self.claim
        return replace(self.claim, age=max(0, int(now - self.since)))


class Roster:
    """The records, and who of them is live (alive or suspect, with a known address) or dead. Never this host itself.

    ``peers`` are those to gossip with, drawn evenly from all that are live.
    """

    def __init__(self, peers: int, members: int) -> None:
        self.live = Pool()
        self.dead = Pool()
        self.peers: list[UUID] = []
        self._records: dict[UUID, Record] = {}
        #: Generation and incarnation of those that were forgotten: what was said of them before is not believed again.
        self._buried: dict[UUID, tuple[int, int]] = {}
        self._round = Round()
        self._most_peers = peers
        self._most = members
        self._turn = 0
        self._stale_peers = False

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records.values())

    def get(self, host: UUID) -> Record | None:
        """Return what is known of a host."""
        return self._records.get(host)

    def peer(self, host: UUID) -> Peer:
        """Return where a host that is known is reached."""
        return self._records[host].peer

    def member(self, host: UUID) -> Member | None:
        """Return a host as it is told to others; None when it is not known, or not well enough."""
        record = self._records.get(host)
        if record is None or record.claim.profile is None:
            return None
        return Member.of(record.claim, record.since)

    def members(self) -> list[Member]:
        """Return all that are known, the dead included."""
        return [
            Member.of(record.claim, record.since)
            for record in self._records.values()
            if record.claim.profile is not None
        ]

    def hear(
        self, claim: Claim, now: float, random: stdlib_random.Random
    ) -> tuple[Record, Claim | None, list[Notice]] | None:
        """Take a claim in. Return the record, what held before, and what is to be told; None if it is no news."""
        record = self._records.get(claim.host)
        if record is None:
            if len(self._records) >= self._most:
                return None
            if claim.host in self._buried:
                if (claim.generation, claim.incarnation) <= self._buried[claim.host]:
                    return None
                del self._buried[claim.host]
            old, new = None, claim
            record = self._records[claim.host] = Record(claim, now - claim.age)
        else:
            old = record.claim
            new = join(old, claim)
            if claim.state is State.ALIVE and claim.incarnation >= old.incarnation:
                record.doubted = False
            if new is old:
                return None
            record.claim = new
        notices = []
        if old is not None and old.generation != new.generation and live(old):
            notices.append(Notice("dead", Member.of(replace(old, state=State.DEAD), now)))
        if old is not None and (old.generation != new.generation or old.state is not new.state):
            record.since = now - new.age
        if old is not None and old.generation != new.generation:
            record.noticed = False
        found = kinds(old if record.noticed else None, new)
        record.noticed |= bool(found)
        notices += [Notice(kind, Member.of(new, record.since)) for kind in found]
        self._place(claim.host, new, random)
        return record, old, notices

    def forget(self, host: UUID) -> None:
        """Remove what is known of a host, except when it was."""
        record = self._records.pop(host, None)
        if record is None:
            return
        self.live.discard(host)
        self.dead.discard(host)
        if len(self._buried) >= self._most:
            del self._buried[next(iter(self._buried))]
        self._buried[host] = record.claim.generation, record.claim.incarnation

    def buried(self, host: UUID) -> Claim | None:
        """Return what is believed of a host that was forgotten; None of one that never was."""
        found = self._buried.get(host)
        return None if found is None else Claim(host, *found, State.DEAD)

    def next_probe(self, random: stdlib_random.Random) -> Record | None:
        """Return whose turn it is to be probed."""
        host = self._round.next(self.live, random)
        return None if host is None else self._records[host]

    def next_peers(self, count: int, random: stdlib_random.Random) -> list[Record]:
        """Return whom to gossip with now: each peer in turn."""
        self._refill(random)
        chosen: list[Record] = []
        for _ in range(min(count, len(self.peers))):
            if self._turn >= len(self.peers):
                # Another order each time round, so that not the same hosts hear everything last.
                random.shuffle(self.peers)
                self._turn = 0
            record = self._records[self.peers[self._turn]]
            self._turn += 1
            if record not in chosen:
                chosen.append(record)
        return chosen

    def all_peers(self, random: stdlib_random.Random) -> list[Record]:
        """Return all that this host gossips with."""
        self._refill(random)
        return [self._records[host] for host in self.peers]

    def exchange_peer(self, random: stdlib_random.Random) -> None:
        """Take another one in place of one peer, so that the web of all hosts does not stay as it grew."""
        self._refill(random)
        other = self.live.draw(random)
        if len(self.peers) == self._most_peers and other is not None and other not in self.peers:
            self.peers[int(random.random() * len(self.peers))] = other

    def _place(self, host: UUID, claim: Claim, random: stdlib_random.Random) -> None:
        if live(claim):
            self.dead.discard(host)
            if host not in self.live:
                self.live.add(host)
                self._round.insert(host, random)
                self._consider(host, random)
        else:
            if host in self.live:
                self.live.discard(host)
                self._stale_peers = True
            if claim.state is State.DEAD and claim.profile is not None:
                self.dead.add(host)
            else:
                self.dead.discard(host)

    def _consider(self, host: UUID, random: stdlib_random.Random) -> None:
        """Make a new one a peer with the same chance that all others had."""
        if len(self.peers) < self._most_peers:
            if host not in self.peers:
                self.peers.append(host)
        elif random.random() * len(self.live) < self._most_peers and host not in self.peers:
            self.peers[int(random.random() * len(self.peers))] = host

    def _refill(self, random: stdlib_random.Random) -> None:
        if not self._stale_peers:
            return
        self._stale_peers = False
        self.peers = [host for host in self.peers if host in self.live]
        for host in self.live.sample(random, self._most_peers + len(self.peers)):
            if len(self.peers) >= self._most_peers:
                break
            if host not in self.peers:
                self.peers.append(host)
