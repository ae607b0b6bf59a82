"""A dump's script in parts: nothing lost, nothing of what is for others, and torn ones refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeitwork.store.script import CopyBegin, CopyEnd, CopyRow, Sql, Unreadable, parts, rows

#: What COPY's text form makes of any value: no bare line end, and a backslash is never alone.
_ROWS = st.text(st.characters(blacklist_characters="\n\r\\", blacklist_categories=("Cs",)), max_size=20)
_STATEMENTS = st.sampled_from(["create table a (b int);", "-- a comment", "  COPY a (b) FROM stdin;", "select '\\.';"])
_TABLES = st.lists(st.tuples(st.lists(_STATEMENTS, max_size=3), st.lists(_ROWS, max_size=4)), max_size=4)


@given(_TABLES)
def test_all_is_in_order_and_nothing_is_added(tables: list[tuple[list[str], list[str]]]) -> None:
    lines: list[str] = ["\\restrict abc"]
    wanted: list[object] = []
    for statements, content in tables:
        lines += ["SET statement_timeout = 0;", *statements, "COPY public.t (x) FROM stdin;", *content, "\\."]
        if statements:
            wanted.append(Sql("".join(f"{line}\n" for line in statements).encode()))
        wanted.append(CopyBegin(b"COPY public.t (x) FROM stdin"))
        wanted += [CopyRow(f"{row}\n".encode()) for row in content]
        wanted.append(CopyEnd())
    script = "".join(f"{line}\n" for line in [*lines, "\\unrestrict abc"]).encode()
    # As a pipe gives lines: split at line ends only, whatever else a row has in it.
    assert list(parts(line + b"\n" for line in script.split(b"\n")[:-1])) == wanted


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("COPY a (b) FROM stdin;\n1\n", "in the middle of a table"),
        ("\\! rm -rf /\n", "a command for psql"),
        ("\\restrict a b\n", "a command for psql"),
        ("\\connect other\n", "a command for psql"),
    ],
)
def test_what_is_torn_or_for_psql_is_refused(script: str, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        list(parts(script.encode().splitlines(keepends=True)))


def test_rows_of_small_tables() -> None:
    script = b"set x = 1;\nCOPY public.cluster (singleton, id) FROM stdin;\nt\tabc\n\\.\n"
    assert rows(script.splitlines(keepends=True)) == {"cluster": [{"singleton": "t", "id": "abc"}]}
    with pytest.raises(Unreadable, match="too many or too few"):
        rows(script.replace(b"t\tabc", b"t").splitlines(keepends=True))
