"""What one host believes of all others and of itself, and what it tells on. The rest of the machine shares it."""

from __future__ import annotations

import random as stdlib_random
from dataclasses import replace
from uuid import UUID

from runtime.membership.agenda import Agenda
from runtime.membership.awareness import Awareness
from runtime.membership.claim import CLAIMED, LARGEST, Claim, Profile, State
from runtime.membership.events import Effect, Peer, Send, Superseded, live
from runtime.membership.messages import Gossip, Life, Said
from runtime.membership.probing import Due
from runtime.membership.roster import Record, Roster
from runtime.membership.rules import Rules
from runtime.membership.rumours import Rumours
from runtime.membership.suspicion import Suspicion

#: Most hosts beyond the peers that are told directly of a leave.
_FAREWELLS = 4


class Beliefs:
    """``now``, ``random`` and ``effects`` are those of the present step. ``agenda`` is what is due when."""

    def __init__(self, rules: Rules, own: Claim) -> None:
        self.rules = rules
        self.own = own
        self.roster = Roster(rules.peers, rules.members)
        self.awareness = Awareness(rules.awareness)
        self.rumours = Rumours(rules.rumours)
        self.agenda: Agenda[Due] = Agenda()
        #: Whether this host has left or was superseded.
        self.over = False
        self.now = 0.0
        self.random = stdlib_random.Random(0)
        self.effects: list[Effect] = []
        self._gossiped = 0.0

    @property
    def host(self) -> UUID:
        """This host."""
        return self.own.host

    @property
    def life(self) -> Life:
        """Which life says what is sent."""
        return Life(self.own.generation, self.own.incarnation)

    @property
    def size(self) -> int:
        """How many hosts there are, this one included."""
        return len(self.roster.live) + 1

    def send(self, peer: Peer, said: Said) -> None:
        """Have something sent."""
        self.effects.append(Send(peer, said))

    # ---- what is told

    def tell(self, claim: Claim) -> None:
        """Have a claim told on."""
        if claim.state is not State.ALIVE and claim.profile is not None:
            # They have it, and where they don't an exchange brings it.
            claim = replace(claim, profile=None)
        self.rumours.put(claim)
        if ("gossip", None) not in self.agenda:
            self.agenda.set(("gossip", None), max(self.now, self._gossiped + self.rules.gossip_every))

    def take(self, about: tuple[Claim, ...] = ()) -> tuple[Claim, ...]:
        """Return what to say in a message beside its own matter: ``about`` and rumours."""
        room = self.rules.message_bytes - sum(claim.size for claim in about)
        besides = about[0].host if about else None
        return about + self.rumours.take(room, self.rules.tellings(self.size), besides)

    def about(self, host: UUID) -> tuple[Claim, ...]:
        """Return what a host has to refute, if it is there to do so."""
        record = self.roster.get(host)
        if record is None:
            buried = self.roster.buried(host)
            return () if buried is None else (buried,)
        if record.claim.state is State.ALIVE:
            return ()
        return (replace(record.aged(self.now), profile=None),)

    def gossip(self) -> None:
        """Tell some peers what is to be told."""
        self._gossiped = self.now
        for record in self.roster.next_peers(self.rules.gossip_to, self.random):
            rumours = self.take()
            if not rumours:
                return
            self.send(record.peer, Gossip(self.life, rumours))
        if self.rumours:
            self.agenda.set(("gossip", None), self.now + self.rules.gossip_every)

    # ---- what is heard

    def hear(self, claim: Claim, *, spread: bool = True, exchanged: bool = False) -> None:
        """Take a claim in, and tell it on if it is news. ``exchanged``: it is no news to who said so."""
        if self.over or claim.age > self.rules.reclaim:
            return
        if claim.host == self.host:
            self._hear_of_self(claim)
            return
        if exchanged and claim.state is State.DEAD and claim.host in self.roster.live:
            record = self.roster.get(claim.host)
            if record is not None and record.claim.generation == claim.generation:
                # It may be on our side of what was a partition: it shall have the time to say so. Nobody has just
                # tried it in vain, so there is no accuser.
                claim = replace(claim, state=State.SUSPECT, accusers=(), age=0)
        heard = self.roster.hear(claim, self.now, self.random)
        if heard is None:
            return
        record, old, notices = heard
        self.effects += notices
        self._follow(record, old)
        # Of the dead only their death is told, once: what else is heard of them comes from where they live, maybe.
        if spread and (old is None or live(record.claim) or old.state is not record.claim.state):
            self.tell(record.claim)

    def _hear_of_self(self, claim: Claim) -> None:
        own, profile = self.own, self.own.profile
        if claim.generation > own.generation:
            self.over = True
            self.effects.append(Superseded(claim.generation))
            return
        if claim.generation < own.generation or profile is None:
            return
        if claim.profile is not None and claim.profile.version >= profile.version and claim.profile != profile:
            # Said by an earlier actor of this very life of the host.
            profile = replace(profile, version=min(CLAIMED, claim.profile.version + 1))
        incarnation = own.incarnation
        if (claim.incarnation, claim.state) > (own.incarnation, own.state):
            incarnation = min(LARGEST, claim.incarnation + 1)
            if claim.state is not State.ALIVE:
                self.awareness.add(1)
        if incarnation != own.incarnation or profile is not own.profile:
            self.own = replace(own, incarnation=incarnation, profile=profile)
            self.tell(self.own)

    def publish(self, meta: bytes) -> None:
        """Say from now on that this host's metadata is this. Raises `ValueError` when it is too large."""
        profile = self.own.profile
        if profile is not None and meta != profile.meta:
            self.own = replace(self.own, profile=Profile(min(CLAIMED, profile.version + 1), profile.address, meta))
            self.tell(self.own)

    def leave(self) -> None:
        """Tell the peers and some more that this host is gone, and be silent from now on."""
        own = self.own
        self.own = replace(own, incarnation=own.incarnation + 1, state=State.LEFT, profile=None)
        hosts = dict.fromkeys(record.claim.host for record in self.roster.all_peers(self.random))
        hosts |= dict.fromkeys(self.roster.live.sample(self.random, _FAREWELLS))
        for host in hosts:
            record = self.roster.get(host)
            if record is not None:
                self.send(record.peer, Gossip(self.life, (self.own,)))
        self.over = True

    # ---- suspicion and death

    def suspect(self, record: Record, *, refused: bool) -> None:
        """Accuse a host: it gave no answer."""
        claim = record.claim
        generation, incarnation, accusers = claim.generation, claim.incarnation, (self.host,)
        self.hear(Claim(claim.host, generation, incarnation, State.SUSPECT, None, accusers, refused))

    def give_up(self, host: UUID) -> None:
        """Believe a host dead, if it has had its time."""
        record = self.roster.get(host)
        if record is None or record.suspicion is None:
            return
        if record.suspicion.until > self.now:
            self.agenda.set(("suspicion", host), record.suspicion.until)
            return
        claim = record.claim
        self.hear(Claim(host, claim.generation, claim.incarnation, State.DEAD, refused=claim.refused))

    def forget(self, host: UUID) -> None:
        """Remember nothing of a host."""
        self.roster.forget(host)
        self.rumours.drop(host)

    def allow(self, lag: float) -> None:
        """Leave a time out of account in which this process stood still."""
        self.agenda.shift(lag)
        self.awareness.add(1)
        long = lag > self.rules.reclaim / 2
        if long:
            self.rumours.clear()
        for record in self.roster:
            if record.suspicion is not None:
                record.suspicion.began += lag
            # The others may have forgotten meanwhile that it died.
            record.doubted |= long

    def _follow(self, record: Record, old: Claim | None) -> None:
        """Have its suspicion begin, be confirmed or end, as its claim now says."""
        claim, host = record.claim, record.claim.host
        if claim.state is State.SUSPECT:
            life = claim.generation, claim.incarnation
            if record.suspicion is None or old is None or life != (old.generation, old.incarnation):
                least, most = self.rules.suspicion_bounds(self.size)
                needed = min(self.rules.confirmations, self.size - 2)
                record.suspicion = Suspicion(self.now, least, most, needed)
            record.suspicion.accuse(claim.accusers)
            until = record.suspicion.until
            self.agenda.set(("suspicion", host), until)
            self.agenda.set(("last call", host), max(self.now, until - self.rules.probe_deadline))
        elif record.suspicion is not None:
            record.suspicion = None
            self.agenda.drop(("suspicion", host))
            self.agenda.drop(("last call", host))
        if live(claim):
            self.agenda.drop(("reclaim", host))
        else:
            self.agenda.set(("reclaim", host), record.since + self.rules.reclaim)
