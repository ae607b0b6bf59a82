"""The limits of links. All times in seconds."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """How patient and how generous a host is with its peers."""

    #: For TLS, websocket and both hellos together.
    greeting: float = 5.0
    #: Between pings, and without an answer to one after which the link is closed.
    ping_every: float = 1.0
    silence: float = 5.0
    #: For a last word and the websocket's end.
    parting: float = 1.0
    #: For requests on a link that another one has replaced.
    lingering: float = 3.0
    #: Between attempts to connect: the first, the longest, each times 0.5 to 1.
    backoff_first: float = 0.2
    backoff_longest: float = 30.0
    #: A link that stood this long begins with the first of them again.
    settled: float = 10.0
    #: Frames a peer may send in one second, and at once.
    frames_per_second: float = 20_000.0
    #: Requests of one peer in work here at once.
    in_work: int = 256
    #: Connections whose greeting is not over, and those that others have dialled.
    greetings: int = 64
    accepted: int = 2048
    #: Connections that one host has dialled, of all kinds: twice what it makes, for it may have lost the others.
    of_one: int = 160
    #: Links to peers that are not wanted for good; the least recently used one beyond that is closed.
    on_demand: int = 16
    #: For one piece of bulk data to be taken.
    bulk: float = 30.0

    def wait(self, attempt: int, chance: random.Random) -> float:
        """Return how long to wait after so many attempts in a row have failed."""
        longest = min(self.backoff_longest, self.backoff_first * 2.0 ** min(attempt, 20))
        return longest * chance.uniform(0.5, 1.0)
