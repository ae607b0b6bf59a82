"""How often somebody may try to join, so that nobody can guess or keep the database busy."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


class Attempts:
    """Buckets of attempts, one for each address and one for all; memory is bounded.

    ``each`` and ``all_`` attempts at once, and so many more each minute. Times in seconds, of any clock.
    """

    def __init__(self, *, each: int = 10, all_: int = 200, addresses: int = 1024) -> None:
        self._each, self._all = each, all_
        self._addresses = addresses
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._total = _Bucket(all_, 0.0)

    def allow(self, address: str, now: float) -> bool:
        """Count an attempt; tell whether it may go on."""
        bucket = self._buckets.pop(address, None) or _Bucket(self._each, now)
        self._buckets[address] = bucket
        while len(self._buckets) > self._addresses:
            # The one that was quiet for longest. Whoever has many addresses still meets the bucket of all.
            self._buckets.popitem(last=False)
        return self._take(bucket, self._each, now) and self._take(self._total, self._all, now)

    @staticmethod
    def _take(bucket: _Bucket, most: int, now: float) -> bool:
        bucket.left = min(most, bucket.left + max(0.0, now - bucket.at) * most / 60.0)
        bucket.at = now
        if bucket.left < 1:
            return False
        bucket.left -= 1
        return True
