"""Doctor on machines with other people's firewalls, as nft and iptables list them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.zeitwork.setup.world import World
from zeitwork.config import Config
from zeitwork.doctor import firewall
from zeitwork.doctor.check import Patient
from zeitwork.setup.tools import Ran


class Tools:
    """Has the programs that were given, which say what was given."""

    def __init__(self, **said: Ran) -> None:
        self.said = {name.replace("_", "-"): ran for name, ran in said.items()}

    def which(self, command: str) -> Path | None:
        return Path("/usr/sbin") / command if command in self.said else None

    def run(self, argv: list[str], **_: object) -> Ran:
        return self.said[argv[0]]


def chains(*policies: tuple[str, str]) -> str:
    listing = [
        {"chain": {"family": f, "table": "filter", "name": "FORWARD", "type": "filter", "hook": "forward", "policy": p}}
        for f, p in policies
    ]
    return json.dumps({"nftables": [{"metainfo": {}}, *listing]})


def look(tmp_path: Path, tools: Tools, *, legacy: bool = False) -> list[tuple[str, str]]:
    world = World(tmp_path)
    if legacy:
        world.layout.at("/proc/net/ip_tables_names").write_text("nat\nfilter\n")
    found = firewall.firewall(Patient(Config(), world.options(), tools))
    assert all(check.fix for check in found if check.status != "ok")
    return [(check.status, check.detail) for check in found]


def test_an_open_machine(tmp_path: Path) -> None:
    assert look(tmp_path, Tools(nft=Ran(0, chains(("ip", "accept")))))[0][0] == "ok"


def test_each_closed_family_is_told_with_what_it_means_for_vms(tmp_path: Path) -> None:
    warning = "# Warning: table ip filter is managed by iptables-nft, do not touch!\n"
    found = look(tmp_path, Tools(nft=Ran(0, warning + chains(("ip", "drop"), ("ip6", "drop")))))
    assert [status for status, _ in found] == ["warn", "warn"]
    assert "IPv4" in found[0][1]
    assert "IPv6" in found[1][1]


def test_rules_of_the_old_kind_are_found_beside_an_open_nft(tmp_path: Path) -> None:
    legacy = Ran(0, "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n")
    tools = Tools(nft=Ran(0, chains()), iptables_legacy_save=legacy)
    assert [status for status, _ in look(tmp_path / "used", tools, legacy=True)] == ["warn"]
    # Asking a kernel that does not use them would load them.
    tools.said["iptables-legacy-save"] = Ran(1, "must not be run")
    assert look(tmp_path / "unused", tools)[0][0] == "ok"


@pytest.mark.parametrize("ran", [Ran(1, "Operation not permitted"), Ran(127, ""), Ran(124, "")])
def test_who_is_not_root_learns_why_nothing_was_found(
    tmp_path: Path, ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert look(tmp_path / "user", Tools(nft=ran)) == [("ok", "only root may look at it")]
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert look(tmp_path / "root", Tools(nft=ran))[0][0] == "warn"
