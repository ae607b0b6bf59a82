"""Postgres behind the protocols that the actors own: SQL by aggregate, one aggregate writing each table."""

from __future__ import annotations

from zeitwork.store.opening import open_store
from zeitwork.store.store import Store

__all__ = ["Store", "open_store"]
