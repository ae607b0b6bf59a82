"""Units of work: one synchronous function, one transaction, run beside the loop in a thread of a small pool."""

from __future__ import annotations


class Units:
    """Runs units of work."""
