"""LISTEN fan-out: hints that something changed, coalesced and bounded, with a wake-up after every reconnect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

#: The channels; a payload is the id of what changed.
CHANNELS = ("zw_instances", "zw_placements", "zw_images", "zw_nodes", "zw_events")


@dataclass(frozen=True, slots=True)
class Wake:
    """What changed: ``ids`` (payloads), or ``everything`` when that is not known: read all again."""

    ids: frozenset[str] = frozenset()
    everything: bool = False


class Subscription:
    """A bounded, coalescing inbox of hints."""

    async def wait(self) -> Wake:
        """Wait for a hint; those that came since the last call are folded into one."""
        raise NotImplementedError


class Notifications:
    """Hands notifications of Postgres to subscribers."""

    @contextmanager
    def subscribe(self, *channels: str) -> Iterator[Subscription]:
        """Subscribe to channels. The first wait returns at once with ``everything``."""
        raise NotImplementedError
