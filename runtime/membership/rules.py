"""The numbers of membership. Times in seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """The same for all hosts of a cluster. What is not said to differ is memberlist's LAN profile.

    Two things differ, measured to reach 8 s with 100 hosts: a host probes twice a second instead of once (idle probes
    are 150 bytes), and a confirmed suspicion lasts ``2 log10 N`` s instead of ``4 log10 N`` s, but 3 s at least. One
    that nobody confirms lasts six times as long, as there.
    """

    #: Between two probes; how long the direct answer may take, and how long any answer.
    probe_every: float = 0.5
    probe_timeout: float = 0.5
    probe_deadline: float = 1.0
    #: Hosts asked to try instead, and the share of ``probe_timeout`` after which they say that they got no answer.
    indirect: int = 3
    nack_after: float = 0.8
    #: Highest score of the own health; the times of probes are multiplied by the score + 1.
    awareness: int = 8
    #: A suspicion lasts ``suspicion * log10 N`` s when ``confirmations`` others have it too, ``suspicion_least`` at
    #: least, and ``suspicion_most`` times as long when nobody has.
    suspicion: float = 2.0
    suspicion_least: float = 3.0
    suspicion_most: float = 6.0
    confirmations: int = 2
    #: Rumours are told to ``gossip_to`` hosts every ``gossip_every``, each ``retransmit * log10 (N + 1)`` times.
    gossip_every: float = 0.2
    gossip_to: int = 3
    retransmit: float = 4.0
    #: Hosts that a host gossips with, always the same ones as far as possible: each costs a connection.
    peers: int = 12
    #: Most rumours that wait, and most bytes of them in one message.
    rumours: int = 4096
    message_bytes: int = 1200
    #: All that is known is exchanged with one host so often, in messages of at most so many bytes; with more than
    #: ``sync_scale`` hosts less often, by log2. First ``sync_first`` after the cluster was found,
    #: then three times as long after that, and so on.
    sync_every: float = 30.0
    sync_first: float = 1.0
    sync_scale: int = 32
    sync_bytes: int = 16384
    #: A host that asks for all that is known is told it so often at most.
    respond_every: float = 0.2
    #: One of the dead is tried again so often, in case it lives behind a partition; seeds too, at first more often.
    seek_every: float = 10.0
    seek_first: float = 0.5
    #: How long the dead and those who left are remembered.
    reclaim: float = 3600.0
    #: A step later than this after it was due: the process stood still. What it did not hear then says nothing.
    late: float = 0.5
    #: Most hosts, the dead included. More are not believed in.
    members: int = 5000
    #: Most probes that are under way for others.
    relays: int = 256

    def suspicion_bounds(self, hosts: int) -> tuple[float, float]:
        """Return how long a suspicion lasts at least and at most, among so many hosts."""
        least = max(self.suspicion_least, self.suspicion * math.log10(max(hosts, 1)))
        return least, least * self.suspicion_most

    def tellings(self, hosts: int) -> int:
        """Return how often a rumour is told by each host that has heard it."""
        return max(1, math.ceil(self.retransmit * math.log10(hosts + 1)))

    def sync_period(self, hosts: int) -> float:
        """Return the seconds between two exchanges."""
        if hosts <= self.sync_scale:
            return self.sync_every
        return self.sync_every * (math.ceil(math.log2(hosts / self.sync_scale)) + 1)
