"""Names of actors on one host: ``scheduler``, ``vm/3f9a01``, ``host/tap/3f9a01``."""

from __future__ import annotations

import re

_VALID = re.compile(r"[a-z0-9][a-zA-Z0-9_.:-]*(/[a-zA-Z0-9_.:-]+)*")
LONGEST = 200


class Name(str):
    """A checked name: a kind and, for one of many, a key. Usable wherever a ``str`` is."""

    __slots__ = ()

    def __new__(cls, value: str) -> Name:
        """Return the name; raises ``ValueError`` for what can't be one."""
        if type(value) is cls:
            return value
        if len(value) > LONGEST or not _VALID.fullmatch(value):
            raise ValueError(f"not a name for an actor: {value!r}")
        return super().__new__(cls, value)

    @classmethod
    def of(cls, kind: str, key: object) -> Name:
        """Return ``kind/key``."""
        return cls(f"{kind}/{key}")

    @property
    def kind(self) -> str:
        """The part before the first slash: what sort of actor this is."""
        return self.partition("/")[0]

    @property
    def key(self) -> str:
        """The part after the first slash, or empty."""
        return self.partition("/")[2]
