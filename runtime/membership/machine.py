"""Who is there, as one host sees it: SWIM with Lifeguard's extensions, without I/O.

`Machine.step` takes an event, the time and a source of chance and returns what is to be done, in order; `Machine.wake`
is when the next `Tick` is due. The time is CLOCK_BOOTTIME's (``Environment.monotonic``). What a message costs does not
depend on how many hosts there are, except for an exchange of all that is known.

What SWIM leaves open is settled so. A host that is believed dead is told so as soon as it asks anything, and refutes by
a higher incarnation; so does one that was only cut off, since the dead are tried again now and then. A connection that
is refused means suspect; one that breaks means probed at once: a stall of the network breaks many, and each suspicion
has to be refuted. Whoever believes somebody dead whom others know alive says so in an exchange of all that is known:
there it counts as a suspicion only. A rumour may miss somebody, a refutation too: nobody is given up without a last
call, whose answer brings the refutation. A process that stood still does not count the time: see ``Rules.late``.
"""

from __future__ import annotations

import random as stdlib_random
from uuid import UUID

from runtime.membership.beliefs import Beliefs
from runtime.membership.claim import Claim, Profile, State
from runtime.membership.events import (
    Effect,
    Event,
    Join,
    Leave,
    Member,
    Peer,
    Publish,
    Received,
    Tick,
    Unreachable,
)
from runtime.membership.exchange import Exchange
from runtime.membership.messages import Ack, Gossip, Nack, Ping, PingRequest, Said, Sync
from runtime.membership.prober import Prober
from runtime.membership.probing import Due
from runtime.membership.roster import Record
from runtime.membership.rules import Rules

DEFAULTS = Rules()


class Machine:
    """The state, and the steps from one to the next. ``generation`` has to grow with each start of the host.

    Raises `ValueError` when the address or the metadata is too large.
    """

    def __init__(self, host: UUID, generation: int, address: str, meta: bytes = b"", rules: Rules = DEFAULTS) -> None:
        self._held = Beliefs(rules, Claim(host, generation, 0, State.ALIVE, Profile(1, address, meta)))
        self._prober = Prober(self._held)
        self._exchange = Exchange(self._held, self._prober)
        self._began = 0.0

    @property
    def over(self) -> bool:
        """Whether this host has left or was superseded."""
        return self._held.over

    @property
    def joined(self) -> bool:
        """Whether it has found the cluster, or is the first of it."""
        return self._exchange.joined

    @property
    def health(self) -> int:
        """How badly this host itself seems to do: from 0, well, to ``Rules.awareness``."""
        return self._held.awareness.score

    @property
    def wake(self) -> float | None:
        """When the next `Tick` is due; None before `Join` and once all is over."""
        return None if self.over else self._held.agenda.next

    @property
    def own(self) -> Member:
        """Return this host as the others see it, or should."""
        return Member.of(self._held.own, self._began)

    def member(self, host: UUID) -> Member | None:
        """Return another host; None when it is not known."""
        return self._held.roster.member(host)

    def members(self) -> list[Member]:
        """Return all others that are known, also those that died or left lately."""
        return self._held.roster.members()

    def step(self, event: Event, now: float, random: stdlib_random.Random) -> tuple[Effect, ...]:
        """Return what is to be done, in order. ``now`` must not be earlier than in the step before.

        Raises `ValueError` for metadata that is too large.
        """
        held = self._held
        if held.over:
            return ()
        held.now, held.random, held.effects = now, random, []
        due = held.agenda.next
        if due is not None and now - due > held.rules.late:
            held.allow(now - due)
        match event:
            case Tick():
                pass
            case Received(peer, said):
                self._received(peer, said)
            case Unreachable(peer, refused):
                if peer.host is not None:
                    self._prober.unreachable(peer.host, refused=refused)
            case Publish(meta):
                held.publish(meta)
            case Join(seeds):
                self._began = now
                held.agenda.set(("probe", None), now + random.random() * held.rules.probe_every)
                self._exchange.begin(seeds)
            case Leave():
                held.leave()
        if not held.over:
            for key in held.agenda.due(now):
                self._do(key)
        return tuple(held.effects)

    def _do(self, due: Due) -> None:
        match due:
            case ("probe", _):
                self._prober.next()
            case ("indirect", int(number)):
                self._prober.ask_others(number)
            case ("verdict", int(number)):
                self._prober.verdict(number)
            case ("nack", int(number)):
                self._prober.say_no_answer(number)
            case ("relayed", int(number)):
                self._prober.end_relay(number)
            case ("suspicion", UUID() as host):
                self._held.give_up(host)
            case ("last call", UUID() as host):
                self._prober.insist(host)
            case ("reclaim", UUID() as host):
                self._held.forget(host)
            case ("gossip", _):
                self._held.gossip()
            case ("sync", _):
                self._exchange.exchange()
            case ("seek", _):
                self._exchange.seek()

    # ---- messages

    def _received(self, peer: Peer, said: Said) -> None:
        held, host = self._held, peer.host
        if host is None or host == held.host:
            return
        record = held.roster.get(host)
        was_dead = record is not None and record.claim.state is State.DEAD
        if record is not None:
            if not peer.address:
                peer = record.peer
            if said.life.generation < record.claim.generation:
                # An earlier life of it, or a second one that should not be.
                if isinstance(said, Ping | Sync):
                    held.send(peer, Gossip(held.life, (record.claim,)))
                return
            self._meet(record, said)
        match said:
            case Ping(_, number, rumours):
                self._hear(rumours)
                record = held.roster.get(host)
                held.send(peer, Ack(held.life, number, held.take(held.about(host))))
                if record is None or record.claim.profile is None:
                    self._exchange.introduce(peer)
            case Ack(_, number, rumours):
                self._prober.answered(peer, number)
                self._hear(rumours)
                if was_dead and not held.over:
                    # It was cut off, and so it knows what we don't.
                    self._exchange.respond(peer, answer=True)
            case Nack(_, number):
                self._prober.not_answered(peer, number)
            case PingRequest(_, _, _, _, _, rumours):
                self._hear(rumours)
                self._prober.try_for(peer, said)
            case Gossip(_, rumours):
                self._hear(rumours)
            case Sync():
                self._exchange.synced(peer, said)
                about = held.about(host)
                if about and not held.over:
                    held.send(peer, Gossip(held.life, about))

    def _meet(self, record: Record, said: Said) -> None:
        """Take in what it means that a host speaks at all."""
        claim, life = record.claim, said.life
        record.doubted = False
        if (life.generation, life.incarnation) > (claim.generation, claim.incarnation):
            # It has refuted what is believed here, or lives a new life.
            self._held.hear(Claim(claim.host, life.generation, life.incarnation, State.ALIVE))

    def _hear(self, rumours: tuple[Claim, ...]) -> None:
        for claim in rumours:
            self._held.hear(claim)
