"""Finds hosts for one shape of one class of requirements by looking at few of them, however many there are.

Two things keep the cost of a placement flat. Looking ends once enough hosts that fit were seen; and a host that did not
fit is never looked at again for this shape, since what is free only shrinks while an evaluation lasts. So a search may
go through all hosts when few have room, and the next one does not have to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Mapping, Sequence

from actors.scheduler.fleet import Room
from actors.scheduler.score import evenness, fullness

#: So many hosts that fit are compared with each other.
SAMPLE = 12
#: So many of those that have the image are compared with them.
HOLDERS = 4
#: So many failure domains are looked into for one placement.
DOMAINS = 8
#: So many hosts of one domain are looked at in any case.
INSIDE = 4
#: So many hosts without any of a group are compared with each other.
_EQUALS = 3

#: Whether it refused something lately, how many of the group are on it and in its domain, and its own merits.
_Score = tuple[bool, int, int, float]


class Tally:
    """How many of a group there are, by host and by failure domain."""

    __slots__ = ("domains", "hosts")

    def __init__(self) -> None:
        self.hosts: dict[int, int] = {}
        self.domains: dict[str, int] = {}

    def add(self, room: Room, count: int = 1) -> None:
        """Count so many more."""
        self.hosts[room.id] = self.hosts.get(room.id, 0) + count
        self.domains[room.domain] = self.domains.get(room.domain, 0) + count


def by_domain(rooms: Iterable[Room]) -> dict[str, list[Room]]:
    """Return the hosts of each failure domain, in the same order."""
    domains: dict[str, list[Room]] = {}
    for room in rooms:
        domains.setdefault(room.domain, []).append(room)
    return domains


class Packed:
    """Hosts for one shape; the fullest that fits is taken, or one that is nearly so and has the image."""

    def __init__(self, rooms: Sequence[Room], vcpu: int, memory: int) -> None:
        self._rooms = list(rooms)  # the fullest last
        self._vcpu = vcpu
        self._memory = memory
        self._turn = 0

    def choose(self, holders: Sequence[Room], having: Container[int]) -> Room | None:
        """Return the best one of those that it looked at, None when nothing fits.

        ``holders`` are feasible hosts with the image, ``reserved`` the ids of all that have it.
        """
        rooms, vcpu, memory = self._rooms, self._vcpu, self._memory
        best: Room | None = None
        lowest = 0.0
        seen, at = 0, len(rooms) - 1
        while at >= 0 and seen < SAMPLE:
            room = rooms[at]
            if room.fits(vcpu, memory):
                score = fullness(room, room.share(vcpu, memory), having)
                if best is None or score < lowest:
                    best, lowest = room, score
                seen += 1
            else:
                del rooms[at]
            at -= 1
        if best is not None and holders and best.id not in having:
            for offset in range(min(HOLDERS, len(holders))):
                room = holders[(self._turn + offset) % len(holders)]
                if room.fits(vcpu, memory):
                    score = fullness(room, room.share(vcpu, memory), having)
                    if score < lowest:
                        best, lowest = room, score
            self._turn += HOLDERS
        return best


class _Domain:
    """The hosts of one failure domain, those first that were not taken for the longest time."""

    __slots__ = ("name", "number", "rooms")

    def __init__(self, name: str, number: int, rooms: Iterable[Room]) -> None:
        self.name = name
        self.number = number
        self.rooms = deque(rooms)


class Spread:
    """Hosts for one shape; one with the fewest of the same group is taken, of those one in the emptiest domain."""

    def __init__(self, domains: Mapping[str, Sequence[Room]], vcpu: int, memory: int) -> None:
        self._vcpu = vcpu
        self._memory = memory
        self._domains = [_Domain(name, number, rooms) for number, (name, rooms) in enumerate(domains.items())]
        self._turn = 0

    def choose(self, counts: Tally, having: Container[int]) -> Room | None:
        """Return the best one of those that it looked at, None when nothing fits."""
        domains = self._in_order(counts)
        most = max(INSIDE, SAMPLE // max(1, len(domains)))
        best: Room | None = None
        lowest: _Score = (True, 0, 0, 0.0)
        source: _Domain | None = None
        beside: list[tuple[_Score, Room]] = []
        for number, domain in enumerate(domains):
            if best is not None and (number >= DOMAINS or lowest[:2] == (False, 0)):
                # Enough were looked at, or no other domain has fewer.
                break
            seen = self._look(domain, counts, having, most)
            if not seen:
                continue
            score, room = min(seen, key=lambda one: one[0])
            if best is None or score < lowest:
                if source is not None:
                    source.rooms.extendleft(other for _, other in reversed(beside))
                best, lowest, source, beside = room, score, domain, seen
            else:
                domain.rooms.extendleft(other for _, other in reversed(seen))
        if source is not None:
            # As good ones are next in line; the chosen one, and what has more than it had, is behind all others.
            source.rooms.extendleft(
                room for score, room in reversed(beside) if score[:3] == lowest[:3] and room is not best
            )
            source.rooms.extend(room for score, room in beside if score[:3] != lowest[:3] or room is best)
        return best

    def _look(self, domain: _Domain, counts: Tally, having: Container[int], most: int) -> list[tuple[_Score, Room]]:
        """Take some hosts that fit from the front of a domain's, with how good each is. Those that do not fit go."""
        rooms, vcpu, memory = domain.rooms, self._vcpu, self._memory
        inside = counts.domains.get(domain.name, 0)
        hosts = counts.hosts
        seen: list[tuple[_Score, Room]] = []
        equals = 0
        while rooms and len(seen) < most and equals < _EQUALS:
            room = rooms.popleft()
            if room.fits(vcpu, memory):
                count = hosts.get(room.id, 0)
                if count == 0 and not room.avoided:
                    equals += 1
                seen.append(((room.avoided, count, inside, evenness(room, having)), room))
        return seen

    def _in_order(self, counts: Tally) -> list[_Domain]:
        """Return the domains, those with the fewest of the group first; of very many another part each time."""
        domains = self._domains
        if not all(domain.rooms for domain in domains):
            domains = self._domains = [domain for domain in domains if domain.rooms]
        if len(domains) < 2:
            return domains
        if len(domains) <= DOMAINS:
            return sorted(domains, key=lambda domain: (counts.domains.get(domain.name, 0), domain.number))
        self._turn = (self._turn + DOMAINS) % len(domains)
        turned = domains[self._turn :] + domains[: self._turn]
        some = sorted(turned[:DOMAINS], key=lambda domain: (counts.domains.get(domain.name, 0), domain.number))
        return some + turned[DOMAINS:]
