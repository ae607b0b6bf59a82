"""The schema says what must never be wrong, whatever the code does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import errors

from actors.model.health import HealthState
from actors.model.restart import RestartMode
from actors.model.states import (
    ImageStatus,
    InstanceDesired,
    InstanceState,
    NodeDesired,
    NodeState,
    Outcome,
    PlacementState,
    SnapshotState,
)
from tests.zeitwork.store.world import ready_node, running
from zeitwork.store import Store
from zeitwork.store.rows import NodeRow

ENUMS: list[tuple[str, str, type[StrEnum]]] = [
    ("instances", "desired", InstanceDesired),
    ("instances", "state", InstanceState),
    ("instances", "outcome", Outcome),
    ("instances", "restart_mode", RestartMode),
    ("placements", "health", HealthState),
    ("placements", "state", PlacementState),
    ("placements", "outcome", Outcome),
    ("images", "status", ImageStatus),
    ("image_history", "status", ImageStatus),
    ("nodes", "desired", NodeDesired),
    ("nodes", "state", NodeState),
    ("snapshots", "state", SnapshotState),
    ("snapshots", "restart_mode", RestartMode),
]


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as opened:
        yield opened


@pytest.mark.parametrize(("table", "column", "enum"), ENUMS)
def test_checks_are_the_enums_of_the_model(
    connection: psycopg.Connection, table: str, column: str, enum: type[StrEnum]
) -> None:
    row = connection.execute(
        "select pg_get_constraintdef(c.oid) from pg_constraint c join pg_attribute a "
        "on a.attrelid = c.conrelid and c.conkey = array[a.attnum] "
        "where c.contype = 'c' and c.conrelid = %s::regclass and a.attname = %s "
        "and pg_get_constraintdef(c.oid) like '%%ANY%%'",
        (table, column),
    ).fetchall()
    assert len(row) == 1
    assert set(re.findall(r"'([a-z_-]+)'", row[0][0])) == {member.value for member in enum}


def test_every_table_of_the_schema_is_named_by_the_aggregate_that_writes_it(connection: psycopg.Connection) -> None:
    from pathlib import Path

    from zeitwork import store as package

    tables = {
        row[0] for row in connection.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()
    }
    # The journal is written by a function in the database, which only zeitwork.store.journal calls.
    writers: dict[str, set[str]] = {table: set() for table in tables}
    assert package.__file__ is not None
    for path in Path(package.__file__).parent.glob("*.py"):
        for table in re.findall(r"(?:insert into|update|delete from)\s+([a-z_]+)", path.read_text()):
            if table in writers:
                writers[table].add(path.stem)
    assert {table: names for table, names in writers.items() if len(names) != 1} == {}


def _place(
    connection: psycopg.Connection, instance_id: UUID, node_id: UUID, generation: int = 1, memory: int = 1
) -> UUID:
    identifier = uuid4()
    connection.execute(
        "insert into placements (id, instance_id, generation, node_id, vcpu, memory, disk, v4) "
        "values (%s, %s, %s, %s, 1, %s, 1, '10.128.0.9')",
        (identifier, instance_id, generation, node_id, memory),
    )
    return identifier


async def test_one_placement_for_each_generation(store: Store, connection: psycopg.Connection) -> None:
    node, instance, _ = await running(store)
    with pytest.raises(errors.UniqueViolation):
        _place(connection, instance.id, node.id)


async def test_an_address_has_one_owner(store: Store, connection: psycopg.Connection) -> None:
    node, _, placement = await running(store)
    assert node.network is not None
    with pytest.raises(errors.UniqueViolation):
        connection.execute(
            "insert into leases (address, pool, node_id, placement_id) values (%s, %s, %s, %s)",
            (placement.lease.v4, node.network.v4, node.id, placement.id),
        )


async def test_an_address_lies_in_its_pool(store: Store, connection: psycopg.Connection) -> None:
    node, _, placement = await running(store)
    assert node.network is not None
    with pytest.raises(errors.CheckViolation):
        connection.execute(
            "insert into leases (address, pool, node_id, placement_id) values ('10.1.1.1', %s, %s, %s)",
            (node.network.v4, node.id, placement.id),
        )


async def test_pools_never_overlap(store: Store, connection: psycopg.Connection) -> None:
    first, second = await ready_node(store), await ready_node(store)
    assert first.network is not None
    connection.execute("delete from pools where node_id = %s", (second.id,))
    with pytest.raises(errors.ExclusionViolation):
        connection.execute(
            "insert into pools (network, node_id, first_offset, last_offset, next_offset) values (%s, %s, 1, 2, 1)",
            (next(first.network.v4.subnets(2)), second.id),
        )


async def test_capacity_is_checked_by_the_database(store: Store, connection: psycopg.Connection) -> None:
    node, instance, _ = await running(store)
    with pytest.raises(
        psycopg.Error, match=r"4024 MiB asked for \(24 MiB of them for the VMM\), 3944 of 4096"
    ) as caught:
        _place(connection, instance.id, node.id, generation=2, memory=4000)
    assert caught.value.sqlstate == "ZW001"


async def test_what_a_placement_holds_is_fixed(store: Store, connection: psycopg.Connection) -> None:
    _, _, placement = await running(store)
    for change in ("memory = 1", "vcpu = 9", "node_id = gen_random_uuid()", "v4 = '10.128.0.77'", "v6 = null"):
        with pytest.raises(psycopg.Error) as caught:
            connection.execute(f"update placements set {change} where id = %s".encode(), (placement.id,))
        assert caught.value.sqlstate == "ZW002", change


async def test_a_removed_placement_stays_removed(store: Store, connection: psycopg.Connection) -> None:
    from tests.zeitwork.store.world import STOPPED, see

    _, _, placement = await running(store)
    await see(store, placement, STOPPED)
    with pytest.raises(psycopg.Error) as caught:
        connection.execute("update placements set state = 'running', removed_at = null where id = %s", (placement.id,))
    assert caught.value.sqlstate == "ZW002"


async def test_no_placement_ends_with_a_lease_or_lives_without(store: Store, connection: psycopg.Connection) -> None:
    node, instance, placement = await running(store)
    with pytest.raises(psycopg.Error) as caught:
        connection.execute("update placements set state = 'removed', removed_at = now() where id = %s", (placement.id,))
    assert caught.value.sqlstate == "ZW003"
    with pytest.raises(psycopg.Error) as caught:
        _place(connection, instance.id, node.id, generation=2)
    assert caught.value.sqlstate == "ZW003"


async def test_a_machine_goes_on_where_its_snapshot_is(store: Store, connection: psycopg.Connection) -> None:
    _, instance, placement = await running(store)
    snapshot = await store.snapshots.create(instance.id)
    elsewhere = await ready_node(store)
    with pytest.raises(errors.ForeignKeyViolation):
        connection.execute(
            "insert into placements (id, instance_id, generation, node_id, vcpu, memory, disk, v4, snapshot_id) "
            "values (%s, %s, 2, %s, 1, 1, 1, '10.128.0.9', %s)",
            (uuid4(), instance.id, elsewhere.id, snapshot.id),
        )
    with pytest.raises(psycopg.Error) as caught:
        connection.execute("update placements set snapshot_id = %s where id = %s", (snapshot.id, placement.id))
    assert caught.value.sqlstate == "ZW002"


async def test_one_snapshot_at_a_time_and_none_of_what_is_stopped(store: Store, connection: psycopg.Connection) -> None:
    _, instance, _ = await running(store)
    snapshot = await store.snapshots.create(instance.id)
    with pytest.raises(errors.UniqueViolation):
        connection.execute(
            "insert into snapshots select * from json_populate_record(null::snapshots, (select (to_jsonb(s) || "
            "jsonb_build_object('id', gen_random_uuid()))::json from snapshots s where id = %s))",
            (snapshot.id,),
        )
    with pytest.raises(errors.CheckViolation):
        connection.execute("update snapshots set state = 'ready' where id = %s", (snapshot.id,))
    with pytest.raises(errors.CheckViolation):
        connection.execute("update instances set paused = true, desired = 'stopped' where id = %s", (instance.id,))
    with pytest.raises(errors.CheckViolation):
        connection.execute("update instances set snapshot_id = %s where id = %s", (snapshot.id, instance.id))


async def test_an_unknown_capacity_takes_nothing(store: Store, connection: psycopg.Connection) -> None:
    _, instance, _ = await running(store)
    from tests.zeitwork.store.world import host

    unknown: NodeRow = await store.nodes.register(host())
    with pytest.raises(psycopg.Error, match="not known yet") as caught:
        _place(connection, instance.id, unknown.id, generation=2)
    assert caught.value.sqlstate == "ZW001"
