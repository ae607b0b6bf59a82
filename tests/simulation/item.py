"""What all that happens in a plan has in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Item:
    """Something that happens ``at`` so many seconds."""

    at: float
    kind: ClassVar[str] = ""

    @property
    def over(self) -> float:
        """When all that it breaks is whole again."""
        return self.at + float(getattr(self, "seconds", 0.0))


@dataclass(frozen=True)
class Request(Item):
    """A person's wish."""
