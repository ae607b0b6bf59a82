"""How a host finds the cluster, and how two hosts that know different things come to know the same."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from runtime.membership.beliefs import Beliefs
from runtime.membership.claim import Claim
from runtime.membership.events import Peer
from runtime.membership.messages import Sync
from runtime.membership.prober import Prober

#: Seeds asked at once by a host that looks for the cluster.
SEEDS_AT_ONCE = 3
#: Hosts of which is remembered when they were last told everything because they spoke.
ANSWERED = 1024


class Exchange:
    """``joined``: the cluster was found. Until then what this host learns is no news to others."""

    def __init__(self, beliefs: Beliefs, prober: Prober) -> None:
        self.joined = False
        self._beliefs = beliefs
        self._prober = prober
        self._seeds: tuple[str, ...] = ()
        self._seeks = 0
        self._wait = beliefs.rules.sync_first
        self._answered: dict[UUID | None, float] = {}

    def begin(self, seeds: Iterable[str]) -> None:
        """Look for the cluster at these addresses; without any, this host is the cluster."""
        held = self._beliefs
        own = held.own.profile
        self._seeds = tuple(dict.fromkeys(seed for seed in seeds if own is None or seed != own.address))
        self.joined = not self._seeds
        held.agenda.set(("sync", None), held.now + (0.5 + held.random.random()) * self._wait)
        held.agenda.set(("seek", None), held.now)

    def seek(self) -> None:
        """Ask seeds that are not known for the cluster, and one of the dead whether it lives."""
        held, rules = self._beliefs, self._beliefs.rules
        wait = rules.seek_every
        if not self.joined:
            wait = min(wait, rules.seek_first * 2.0 ** min(self._seeks, 10))
            self._seeks += 1
        held.agenda.set(("seek", None), held.now + wait * (0.75 + 0.5 * held.random.random()))
        known = {peer.address for peer in (held.roster.peer(host) for host in held.roster.live)} if self._seeds else {}
        missing = [seed for seed in self._seeds if seed not in known]
        held.random.shuffle(missing)
        for seed in missing[: 1 if self.joined else SEEDS_AT_ONCE]:
            held.send(Peer(None, seed), Sync(held.life, (held.own,), answer=True))
        dead = held.roster.dead.draw(held.random)
        record = None if dead is None else held.roster.get(dead)
        if record is not None:
            self._prober.greet(record)

    def exchange(self) -> None:
        """Exchange everything with one host, drawn at random."""
        held, rules = self._beliefs, self._beliefs.rules
        # Soon again at first: of those who join in the same moment, rumours reach fewer than they do later.
        self._wait = min(3 * self._wait, rules.sync_period(held.size))
        held.agenda.set(("sync", None), held.now + self._wait * (0.9 + 0.2 * held.random.random()))
        held.roster.exchange_peer(held.random)
        other = held.roster.live.draw(held.random)
        if other is not None:
            self.send_all(held.roster.peer(other), answer=True)

    def introduce(self, peer: Peer) -> None:
        """Tell a host that is not known who this one is, and ask who it is."""
        self._beliefs.send(peer, Sync(self._beliefs.life, (self._beliefs.own,), answer=True))

    def send_all(self, peer: Peer, *, answer: bool) -> None:
        """Tell a host everything."""
        held = self._beliefs
        parts: list[list[Claim]] = [[held.own]]
        room = held.rules.sync_bytes - held.own.size
        for record in held.roster:
            if record.doubted:
                continue
            claim = record.aged(held.now)
            room -= claim.size
            if room < 0:
                parts.append([])
                room = held.rules.sync_bytes - claim.size
            parts[-1].append(claim)
        for part in parts[:-1]:
            held.send(peer, Sync(held.life, tuple(part), more=True))
        held.send(peer, Sync(held.life, tuple(parts[-1]), answer=answer))

    def respond(self, peer: Peer, *, answer: bool) -> None:
        """Tell a host everything because of what it has said; not if that was done just now.

        It is some milliseconds of work with a thousand hosts: one that asks without end must not keep this one busy.
        """
        held = self._beliefs
        before = self._answered.pop(peer.host, None)
        if before is not None and held.now - before < held.rules.respond_every:
            self._answered[peer.host] = before
            return
        self._answered[peer.host] = held.now
        if len(self._answered) > ANSWERED:
            del self._answered[next(iter(self._answered))]
        self.send_all(peer, answer=answer)

    def synced(self, peer: Peer, said: Sync) -> None:
        """Take in what a host knows, and tell it the same if it asks."""
        held = self._beliefs
        for claim in said.claims:
            held.hear(claim, spread=self.joined or claim.host == peer.host, exchanged=True)
        if held.over:
            return
        if said.answer:
            self.respond(peer, answer=False)
        elif not said.more and not self.joined:
            self.joined = True
            self._wait = held.rules.sync_first
            held.agenda.set(("sync", None), held.now + self._wait * (0.5 + held.random.random()))
