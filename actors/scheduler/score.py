"""Which of some hosts that fit is best. Lower is better; merits are shares of a host, so that they can be compared."""

from __future__ import annotations

from collections.abc import Container

from actors.scheduler.fleet import Room

#: An image that need not be fetched is worth so much fullness: it is what a start waits for longest.
IMAGE = 0.25


def fullness(room: Room, share: float, holders: Container[int]) -> float:
    """Return how good a host is for bin-packing: the less is free afterwards the better."""
    score = room.empty - share + room.penalty
    return score - IMAGE if room.id in holders else score


def evenness(room: Room, holders: Container[int]) -> float:
    """Return how good a host is among those with equally few of a group: the more is free the better."""
    score = room.penalty - room.empty
    return score - IMAGE if room.id in holders else score
