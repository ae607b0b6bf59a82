"""Leaders, people and hosts that all work at once, on real Postgres: nothing of it may ever go wrong."""

from __future__ import annotations

import pytest

from tests.zeitwork.store.races import run_round, slow_statements

__all__ = ["slow_statements"]
pytestmark = pytest.mark.usefixtures("slow_statements")

ROUNDS = 6


@pytest.mark.parametrize("seed", range(ROUNDS))
async def test_whatever_happens_at_once_comes_out_right(database_url: str, seed: int) -> None:
    assert await run_round(database_url, seed) == []
