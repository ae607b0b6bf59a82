"""Many values as one parameter: what psycopg's own dumper of lists takes microseconds for, each.

It matters where thousands go into one statement, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from psycopg.types.json import Jsonb


def uuids(values: Iterable[UUID | None]) -> str:
    """Return ids for ``%s::uuid[]``."""
    return "{" + ",".join(["null" if value is None else value.hex for value in values]) + "}"


def numbers(values: Iterable[int]) -> str:
    """Return integers for ``%s::bigint[]`` and the like."""
    return "{" + ",".join(map(str, values)) + "}"


def addresses(values: Iterable[str | None]) -> str:
    """Return addresses or networks, in the text that Postgres gives of them, for ``%s::inet[]`` or ``%s::cidr[]``."""
    return "{" + ",".join(["null" if value is None else value for value in values]) + "}"


def texts(values: Iterable[str]) -> Jsonb:
    """Return any strings for ``array(select jsonb_array_elements_text(%s))``."""
    return Jsonb(list(values))
