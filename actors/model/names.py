"""What people may call instances and groups."""

from __future__ import annotations

import re

from actors.model.errors import InvalidInput

#: Longest name of an instance, and of a group: its members' names end in -<slot>.
LONGEST, LONGEST_GROUP = 63, 58
FIX = "lower-case letters, digits and, between them, hyphens: for example web-1"


def label_pattern(longest: int) -> str:
    """Return the pattern of a DNS label of at most ``longest`` characters."""
    return rf"^[a-z0-9]([a-z0-9-]{{0,{longest - 2}}}[a-z0-9])?$(?!\n)"


def check_label(text: str, field: str, longest: int = LONGEST) -> None:
    """Raise `InvalidInput` for what is no DNS label of at most ``longest`` characters."""
    if re.search(label_pattern(longest), text) is None:
        raise no_label(field, longest, text)


def no_label(field: str, longest: int, text: str | None = None) -> InvalidInput:
    """Return what is said of a name, ``text`` where it is known, that is no such label."""
    said = "" if text is None else f"{text!r} "
    return InvalidInput(f"{said}is not a name of 1 to {longest} characters", field=field, fix=FIX)
