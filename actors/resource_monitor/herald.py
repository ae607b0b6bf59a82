"""Decides when what a host tells of itself has changed by enough to be told again."""

from __future__ import annotations

from collections.abc import Callable

from actors.resource_monitor.bulletin import Bulletin, encode
from actors.resource_monitor.messages import ResourceSnapshot
from actors.resource_monitor.pressure import cpu_waiting

#: Seconds between two bulletins at least, and so much more for each host: all of them are told each one.
EVERY, EVERY_PER_HOST = 30.0, 0.3
#: Changes worth telling: of the share in which tasks wait, of the load by CPU, of the share of memory that is free.
WAITING, LOAD, MEMORY = 0.1, 0.25, 0.1


class Herald:
    """``tell`` passes bytes on to all hosts, False when it could not; ``hosts`` says how many there are.

    Neither may wait or raise.
    """

    def __init__(
        self,
        hostname: str,
        version: str,
        tell: Callable[[bytes], bool],
        hosts: Callable[[], int] = lambda: 1,
    ) -> None:
        self._hostname = hostname
        self._version = version
        self._tell = tell
        self._hosts = hosts
        #: What holds now; None before the first reading.
        self.latest: Bulletin | None = None
        self._told: Bulletin | None = None
        self._told_at = 0.0

    def measured(self, snapshot: ResourceSnapshot, *, closed: bool, hypervisor: str | None, now: float) -> None:
        """Take in a reading at ``now`` (monotonic), and tell it if that is worth it."""
        self.latest = Bulletin(
            hostname=self._hostname,
            version=self._version,
            cpus=round(snapshot.cpus, 2),
            load=round(snapshot.load, 2),
            waiting=cpu_waiting(snapshot.cpu_pressure, snapshot.load, snapshot.cpus),
            memory=snapshot.memory_used + snapshot.memory_available,
            memory_available=snapshot.memory_available,
            closed=closed,
            hypervisor=hypervisor,
        )
        if due(self._told, self.latest, now - self._told_at, self._hosts()) and self._tell(encode(self.latest)):
            self._told, self._told_at = self.latest, now


def due(told: Bulletin | None, latest: Bulletin, elapsed: float, hosts: int) -> bool:
    """Tell whether others should hear the latest; they were ``told`` something ``elapsed`` seconds ago.

    What decides whether a host can be used goes at once, figures seldom, and the more seldom the more hosts there are.
    """
    if told is None or (told.closed, told.hypervisor) != (latest.closed, latest.hypervisor):
        return True
    if elapsed < EVERY + EVERY_PER_HOST * hosts:
        return False
    return (
        abs(latest.waiting - told.waiting) >= WAITING
        or abs(latest.load - told.load) >= LOAD * max(latest.cpus, 1.0)
        or abs(latest.memory_available - told.memory_available) >= MEMORY * max(latest.memory, 1)
        or latest.memory != told.memory
        or latest.cpus != told.cpus
    )
