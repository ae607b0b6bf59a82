"""Any sequence of what people, the scheduler and the host may do leaves a state that makes sense."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest
import trio
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from actors.model.states import InstanceDesired, NodeDesired, Outcome, PlacementState
from actors.scheduler.store import Move
from tests.conftest import TEMPLATE
from tests.zeitwork.store.steps import World
from tests.zeitwork.store.world import ready_image, ready_node
from zeitwork.store import open_store
from zeitwork.store.embedded import EmbeddedServer

_PICK = st.integers(0, 7)
_ENDINGS = st.sampled_from([Outcome.EXITED, Outcome.STOPPED, Outcome.KILLED, Outcome.START_FAILED, Outcome.VMM_DIED])
_LIVE = st.sampled_from([state for state in PlacementState if state is not PlacementState.REMOVED])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.sampled_from([100, 900, 2000, 4000]), st.booleans()),
        st.tuples(st.just("evaluate")),
        st.tuples(st.just("desire"), _PICK, st.sampled_from(InstanceDesired), st.booleans()),
        st.tuples(st.just("restart"), _PICK),
        st.tuples(st.just("observe"), _PICK, _LIVE),
        st.tuples(st.just("remove"), _PICK, _ENDINGS, st.sampled_from([0, 1])),
        st.tuples(st.just("expire")),
        st.tuples(st.just("pause"), _PICK),
        st.tuples(st.just("resume"), _PICK),
        st.tuples(st.just("snapshot"), _PICK),
        st.tuples(st.just("take"), _PICK, st.booleans()),
        st.tuples(st.just("restore"), _PICK, _PICK),
        st.tuples(st.just("clone"), _PICK),
        st.tuples(st.just("forget"), _PICK),
        st.tuples(st.just("sweep")),
        st.tuples(st.just("die"), _PICK),
        st.tuples(st.just("beat"), _PICK),
        st.tuples(st.just("leave"), _PICK),
        st.tuples(st.just("wish"), _PICK, st.sampled_from(NodeDesired)),
        st.tuples(st.just("move"), _PICK, st.none()),
        st.tuples(st.just("move"), _PICK, st.sampled_from(Move)),
        st.tuples(st.just("replace"), _PICK, st.booleans()),
    ),
    min_size=8,
    max_size=30,
)


@pytest.mark.timeout(900)
@given(steps=STEPS)
@example(
    # A start of what was stopped while it waited for its next try, asked for twice.
    steps=[
        ("create", 100),
        ("evaluate",),
        ("observe", 0, PlacementState.WAITING),
        ("desire", 0, InstanceDesired.STOPPED, False),
        ("desire", 0, InstanceDesired.RUNNING, False),
    ]
)
@example(
    # A try at once, asked for twice.
    steps=[
        ("create", 100),
        ("evaluate",),
        ("observe", 0, PlacementState.WAITING),
        ("desire", 0, InstanceDesired.RUNNING, False),
    ]
)
@example(
    # A copy of what ran, whose snapshot is not wanted any more before the copy has started from it.
    steps=[
        ("observe", 0, PlacementState.RUNNING),
        ("snapshot", 0),
        ("take", 0, True),
        ("clone", 0),
        ("forget", 0),
        ("evaluate",),
        ("forget", 0),
        ("observe", 2, PlacementState.RUNNING),
        ("forget", 0),
        ("sweep",),
    ]
)
@example(
    # One that is to be taken of what ends.
    steps=[("observe", 0, PlacementState.RUNNING), ("snapshot", 0), ("observe", 0, PlacementState.WAITING)]
)
@example(
    # Back to what it was, while paused.
    steps=[
        ("observe", 0, PlacementState.RUNNING),
        ("pause", 0),
        ("observe", 0, PlacementState.PAUSED),
        ("snapshot", 0),
        ("take", 0, True),
        ("restore", 0, 0),
        ("forget", 0),
        ("remove", 0, Outcome.STOPPED, 0),
        ("evaluate",),
        ("forget", 0),
    ]
)
@example(
    # Handed over, and the host of the one or of the other dies meanwhile.
    steps=[
        ("observe", 0, PlacementState.RUNNING),
        ("wish", 0, NodeDesired.DRAINING),
        ("move", 0, None),
        ("move", 1, None),
        ("evaluate",),
        ("die", 0),
        ("move", 0, None),
        ("die", 1),
        ("move", 0, None),
        ("move", 1, None),
        ("beat", 0),
        ("beat", 1),
        ("evaluate",),
    ]
)
@example(
    # A singleton that nobody knows of, started anew, forced, and found.
    steps=[
        ("die", 0),
        ("die", 1),
        ("move", 0, None),
        ("move", 1, None),
        ("restart", 1),
        ("replace", 1, True),
        ("beat", 0),
        ("beat", 1),
        ("evaluate",),
        ("remove", 0, Outcome.STOPPED, 0),
        ("evaluate",),
    ]
)
@settings(
    max_examples=30,
    deadline=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_sequence_makes_sense(postgres_server: EmbeddedServer, steps: list[tuple[Any, ...]]) -> None:
    name = f"i_{uuid4().hex}"
    with psycopg.connect(postgres_server.dsn, autocommit=True) as server:
        server.execute(f"create database {name} template {TEMPLATE} strategy file_copy".encode())
        try:
            trio.run(_live, make_conninfo(postgres_server.dsn, dbname=name), steps)
        finally:
            server.execute(f"drop database {name} with (force)".encode())


async def _live(dsn: str, steps: list[tuple[Any, ...]]) -> None:
    async with open_store(dsn, rest=0.0) as store:
        nodes = [await ready_node(store), await ready_node(store)]
        image = await ready_image(store, nodes[0])
        with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
            world = World(store, nodes, image, connection)
            for step in (("create", 100), ("create", 900, True), ("evaluate",), *steps):
                await world.step(*step)
                world.check()
