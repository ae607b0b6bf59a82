"""GET /api/v1/resources?history=..."""

from __future__ import annotations

import psycopg
import pytest

from tests.zeitwork.api.conftest import World
from tests.zeitwork.store.test_history import INSERT
from zeitwork.api.history import MOST_POINTS, parse_span, step_of


@pytest.mark.parametrize(("span", "seconds", "step"), [("1m", 60, 60), ("4h", 14400, 60), ("24h", 86400, 360)])
def test_spans_and_their_steps(span: str, seconds: int, step: int) -> None:
    assert parse_span(span) == seconds
    assert step_of(seconds) == step
    assert seconds / step <= MOST_POINTS


@pytest.mark.parametrize("span", ["25h", "1441m", "0h", "1d", "-1h", "", "12", "1h%0A"])
async def test_what_is_not_kept_is_refused(world: World, span: str) -> None:
    answer = await world.client.get(f"/api/v1/resources?history={span}")
    assert answer.status_code == 422
    assert answer.json()["field"] == "history"


async def test_without_samples_nothing_is_claimed(world: World) -> None:
    assert (await world.client.get("/api/v1/resources")).json()["history"] is None
    past = (await world.client.get("/api/v1/resources?history=24h")).json()["history"]
    assert (past["seconds"], past["step"]) == (86400, 360)
    assert past["nodes"][0]["points"] == []
    assert set(past["growth"].values()) == set(past["exhausted_in"].values()) == {None}


async def test_growth_and_time_to_exhaustion(world: World, database_url: str) -> None:
    # In one transaction, for which it is the same minute all along.
    with psycopg.connect(database_url) as connection:
        for minutes in range(1, 101):
            connection.execute(INSERT, (world.node.id, minutes, 1, 1000 - minutes * 2))
    past = (await world.client.get("/api/v1/resources?history=2h")).json()["history"]
    (node,) = past["nodes"]
    assert node["hostname"] == "host-a"
    assert len(node["points"]) == 100
    assert node["points"][-1]["memory_allocated"] == 998
    assert node["points"][-1]["memory_used"] == 500
    assert node["growth"] == {
        "vcpu_allocated": 0.0,
        "memory_allocated": 120.0,
        "cpus_used": 0.0,
        "memory_used": 0.0,
    }
    # 3584 MiB are free, 2 more are taken each minute.
    assert node["exhausted_in"]["memory"] == pytest.approx(3584 / 2 * 60)
    assert node["exhausted_in"]["vcpu"] is None
    assert past["growth"] == node["growth"]
    assert past["exhausted_in"] == node["exhausted_in"]
