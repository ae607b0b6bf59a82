"""`PUT .../state` takes what a person may wish; what only the host can observe is refused with that explanation."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from actors.model.errors import Conflict

Wish = TypeVar("Wish", bound=StrEnum)


def wish(state: StrEnum, kind: type[Wish], noun: str, hint: str = "") -> Wish:
    """Return ``state`` as something to wish for. Raises `Conflict` when it can only be observed.

    ``hint`` is added to what to do instead.
    """
    try:
        return kind(state.value)
    except ValueError:
        choices = ", ".join(kind)
        raise Conflict(
            f"{state.value!r} is what {noun} is observed to be, it can't be asked for",
            field="state",
            fix=f"ask for one of: {choices}{hint}",
            code="observed-state",
        ) from None
