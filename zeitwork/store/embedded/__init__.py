"""The embedded database: a real PostgreSQL server from a wheel, under our own supervision."""

from __future__ import annotations

from zeitwork.store.embedded.server import EmbeddedServer

__all__ = ["EmbeddedServer"]
