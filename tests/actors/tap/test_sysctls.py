from __future__ import annotations

from pathlib import Path

import pytest

from actors.model.errors import Failed
from actors.tap.sysctls import apply_recorded, load_record, plan_forwarding, undo_recorded


def machine(root: Path, settings: dict[str, str]) -> Path:
    for name, value in settings.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(value + "\n")
    return root


def conf(interface: str, setting: str) -> str:
    return f"net/ipv6/conf/{interface}/{setting}"


FRESH = {
    "net/ipv4/ip_forward": "0",
    conf("all", "forwarding"): "0",
    conf("all", "accept_ra"): "1",
    conf("default", "accept_ra"): "1",
    conf("eth0", "accept_ra"): "1",
    conf("eth1", "accept_ra"): "0",
    conf("eth2", "accept_ra"): "2",
    conf("lo", "accept_ra"): "1",
}


def test_interfaces_that_live_on_advertisements_keep_them_before_forwarding_goes_on(tmp_path: Path) -> None:
    changes = plan_forwarding(machine(tmp_path, FRESH), ipv6=True)
    assert changes == {
        "net/ipv4/ip_forward": ("0", "1"),
        conf("default", "accept_ra"): ("1", "2"),
        conf("eth0", "accept_ra"): ("1", "2"),
        conf("all", "forwarding"): ("0", "1"),
    }
    assert list(changes)[-1] == conf("all", "forwarding")


def test_a_machine_that_forwards_already_is_left_alone(tmp_path: Path) -> None:
    routing = FRESH | {"net/ipv4/ip_forward": "1", conf("all", "forwarding"): "1"}
    assert plan_forwarding(machine(tmp_path, routing), ipv6=True) == {}


def test_ipv4_alone_changes_nothing_of_ipv6(tmp_path: Path) -> None:
    assert list(plan_forwarding(machine(tmp_path, FRESH), ipv6=False)) == ["net/ipv4/ip_forward"]
    assert plan_forwarding(machine(tmp_path / "none", {"net/ipv4/ip_forward": "1"}), ipv6=True) == {}


def test_what_was_changed_is_put_back_and_only_that(tmp_path: Path) -> None:
    root, record = machine(tmp_path / "proc", FRESH), tmp_path / "record.json"
    apply_recorded(plan_forwarding(root, ipv6=True), record, root)
    assert (root / conf("eth0", "accept_ra")).read_text() == "2"
    # A second start finds nothing to do, and must not forget what the first one found.
    apply_recorded(plan_forwarding(root, ipv6=True), record, root)
    (root / conf("eth0", "accept_ra")).write_text("0")  # somebody else's decision, which stays
    undone = undo_recorded(record, root)
    assert undone == [conf("all", "forwarding"), conf("default", "accept_ra"), "net/ipv4/ip_forward"]
    assert (root / conf("eth0", "accept_ra")).read_text() == "0"
    assert (root / "net/ipv4/ip_forward").read_text() == "0"
    assert not record.exists()
    assert undo_recorded(record, root) == []


def test_the_record_is_written_before_anything_is_changed(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    with pytest.raises(Failed, match="ip_forward"):
        apply_recorded({"net/ipv4/ip_forward": ("0", "1")}, record, tmp_path / "no-such-proc")
    assert load_record(record) == {"net/ipv4/ip_forward": ("0", "1")}


def test_the_first_value_found_stays_on_record(tmp_path: Path) -> None:
    root, record = machine(tmp_path / "proc", FRESH), tmp_path / "record.json"
    apply_recorded({"net/ipv4/ip_forward": ("0", "1")}, record, root)
    apply_recorded({"net/ipv4/ip_forward": ("2", "1")}, record, root)
    assert load_record(record) == {"net/ipv4/ip_forward": ("0", "1")}


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', '{"a": []}', "null"])
def test_a_damaged_record_is_reported_and_kept(tmp_path: Path, content: str) -> None:
    record = tmp_path / "record.json"
    record.write_text(content)
    with pytest.raises(Failed, match="record"):
        load_record(record)
    assert record.exists()
