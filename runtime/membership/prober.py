"""Who answers? Each in turn is asked directly, then through others, and suspected when nothing comes of either."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from runtime.membership.beliefs import Beliefs
from runtime.membership.claim import State
from runtime.membership.events import Peer
from runtime.membership.messages import Ack, Nack, Ping, PingRequest
from runtime.membership.probing import Probe, Relay
from runtime.membership.roster import Record


class Prober:
    """The probes of this host and those that it makes for others. One of each host at a time."""

    def __init__(self, beliefs: Beliefs) -> None:
        self._beliefs = beliefs
        self._number = 0
        self._probes: dict[int, Probe] = {}
        self._probed: dict[UUID, int] = {}
        self._relays: dict[int, Relay] = {}

    def next(self) -> None:
        """Probe whose turn it is."""
        held = self._beliefs
        held.agenda.set(("probe", None), held.now + held.rules.probe_every * held.awareness.scale)
        record = held.roster.next_probe(held.random)
        if record is not None:
            self.probe(record)

    def probe(self, record: Record) -> None:
        """Probe a host, unless that is under way."""
        held, host = self._beliefs, record.claim.host
        if host in self._probed:
            return
        self._number = number = self._number + 1
        self._probes[number] = Probe(host, record.claim.generation)
        self._probed[host] = number
        scale = held.awareness.scale
        held.agenda.set(("indirect", number), held.now + held.rules.probe_timeout * scale)
        held.agenda.set(("verdict", number), held.now + held.rules.probe_deadline * scale)
        held.send(record.peer, Ping(held.life, number, held.take(held.about(record.claim.host))))

    def insist(self, host: UUID) -> None:
        """Ping a host that is about to be given up: it may have refuted, and that may have missed this host."""
        held = self._beliefs
        record = held.roster.get(host)
        if record is None or host not in held.roster.live:
            return
        number = self._probed.get(host)
        if number is None:
            self.probe(record)
        else:
            held.send(record.peer, Ping(held.life, number, held.about(host)))
            held.agenda.set(("indirect", number), held.now + held.rules.probe_timeout)
            self._probes[number].relays = ()

    def greet(self, record: Record) -> None:
        """Ping a host without any consequence should it not answer."""
        self._number += 1
        held = self._beliefs
        held.send(record.peer, Ping(held.life, self._number, held.about(record.claim.host)))

    def ask_others(self, number: int) -> None:
        """Have others try: there is no direct answer yet."""
        held, probe = self._beliefs, self._probes[number]
        record = held.roster.get(probe.host)
        if record is None or probe.relays:
            return
        within = held.rules.nack_after * held.rules.probe_timeout
        probe.relays = tuple(held.roster.live.sample(held.random, held.rules.indirect, probe.host))
        for other in probe.relays:
            relay = held.roster.get(other)
            if relay is not None:
                request = PingRequest(
                    held.life, number, probe.host, record.peer.address, within, held.about(probe.host)
                )
                held.send(relay.peer, request)

    def verdict(self, number: int) -> None:
        """Suspect a host that has not answered in time."""
        held, probe = self._beliefs, self._end(number)
        # Others that do not even say that they have tried tell of this host, not of the one that was probed.
        held.awareness.add(len(probe.relays) - len(probe.nacks) if probe.relays else 1)
        record = held.roster.get(probe.host)
        if record is not None and record.claim.generation == probe.generation and record.claim.state <= State.SUSPECT:
            held.suspect(record, refused=False)

    def unreachable(self, host: UUID, *, refused: bool) -> None:
        """Take into account that a connection could not be made, or broke."""
        held = self._beliefs
        record = held.roster.get(host)
        if record is None or host not in held.roster.live:
            return
        number = self._probed.get(host)
        if refused:
            if number is not None:
                self._end(number)
            held.suspect(record, refused=True)
        elif number is None:
            self.probe(record)
        else:
            # What was said directly is lost, most probably.
            held.agenda.drop(("indirect", number))
            self.ask_others(number)

    # ---- answers

    def answered(self, peer: Peer, number: int) -> None:
        """``peer`` answers a ping, its own or one that it was asked to make."""
        held = self._beliefs
        relay = self._relays.get(number)
        if relay is not None and peer.host == relay.target:
            del self._relays[number]
            held.agenda.drop(("nack", number))
            held.agenda.drop(("relayed", number))
            record = held.roster.get(relay.target)
            # Its incarnation, in case that refutes what is believed there.
            heard = () if record is None else (replace(record.aged(held.now), profile=None),)
            held.send(relay.origin, Ack(held.life, relay.number, heard))
            return
        probe = self._probes.get(number)
        if probe is not None and (peer.host == probe.host or peer.host in probe.relays):
            self._end(number)
            held.awareness.add(-1)

    def not_answered(self, peer: Peer, number: int) -> None:
        """``peer`` was asked to try and has no answer so far."""
        probe = self._probes.get(number)
        if probe is not None and peer.host in probe.relays and peer.host not in probe.nacks:
            probe.nacks += (peer.host,)

    # ---- for others

    def try_for(self, origin: Peer, request: PingRequest) -> None:
        """Ping a host for another one."""
        held = self._beliefs
        if request.target == held.host:
            held.send(origin, Ack(held.life, request.number))
            return
        if len(self._relays) >= held.rules.relays:
            return
        self._number = number = self._number + 1
        self._relays[number] = Relay(origin, request.number, request.target)
        held.agenda.set(("nack", number), held.now + request.within)
        # As long as the slowest of all may wait for it.
        longest = held.rules.probe_deadline * (1 + held.rules.awareness)
        held.agenda.set(("relayed", number), held.now + max(request.within, longest))
        target = Peer(request.target, request.address)
        held.send(target, Ping(held.life, number, held.about(request.target)))

    def say_no_answer(self, number: int) -> None:
        """Tell who asked for it that there is no answer so far."""
        if (relay := self._relays.get(number)) is not None:
            self._beliefs.send(relay.origin, Nack(self._beliefs.life, relay.number))

    def end_relay(self, number: int) -> None:
        """Nobody waits for it any more."""
        self._relays.pop(number, None)

    def _end(self, number: int) -> Probe:
        agenda = self._beliefs.agenda
        probe = self._probes.pop(number)
        del self._probed[probe.host]
        agenda.drop(("indirect", number))
        agenda.drop(("verdict", number))
        return probe
