"""Which DSNs mean another database on another machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.model.errors import Conflict
from zeitwork.trust.reach import local_part, on_this_machine, refuse_local

LOCAL = [
    "postgresql://u:secret@localhost/z",
    "postgresql://127.0.0.1:5433/z",
    "postgresql://[::1]/z",
    "postgresql:///z",
    "postgresql://u@%2Fvar%2Frun%2Fpostgresql/z",
    "host=/run/postgresql dbname=z",
    "dbname=z",
    "host=db.example,LOCALHOST dbname=z",
    "host=db.example hostaddr=127.0.0.1",
]
ELSEWHERE = [
    "postgresql://u:secret@db/z",
    "postgresql://192.0.2.1,192.0.2.2/z?target_session_attrs=read-write",
    "host=localhost hostaddr=192.0.2.7",
    "service=mine",
    "this is no dsn",
]


@pytest.mark.parametrize("dsn", LOCAL)
def test_what_is_on_this_machine_only_is_refused_to_others(dsn: str) -> None:
    assert local_part(dsn) is not None
    with pytest.raises(Conflict) as caught:
        refuse_local(dsn, "192.0.2.99")
    assert caught.value.field == "database_url"
    assert "secret" not in str(caught.value)
    # Two hosts of one machine, as in tests, mean the same.
    refuse_local(dsn, "127.0.0.1")
    refuse_local(dsn, "[::1]")


@pytest.mark.parametrize("dsn", ELSEWHERE)
def test_what_can_be_reached_is_not(dsn: str) -> None:
    assert local_part(dsn) is None
    refuse_local(dsn, "192.0.2.99")


@given(st.text(max_size=60), st.text(max_size=30))
def test_nothing_strange_breaks_it(dsn: str, address: str) -> None:
    local_part(dsn)
    on_this_machine(address)
