"""Other people's firewalls: which of them stop what guests send and get. Pure: text of the tools in, findings out.

A packet passes when every table lets it; ours can't overrule a drop elsewhere. Docker and ufw drop what is forwarded
unless a rule of theirs allows it; firewalld rejects it at the end of its chain.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from actors.tap.nft import BASE_NAME
from actors.tap.wanted import NAME_PREFIX

#: How tools write "every TAP of Zeitwork": nftables, and iptables.
_NFT_NAME, _IPTABLES_NAME = f"{NAME_PREFIX}*", f"{NAME_PREFIX}+"
_CLOSING = ("drop", "reject")


@dataclass(frozen=True, slots=True)
class Closed:
    """A chain that drops forwarded packets. ``owner`` is whose it seems to be, ``fix`` how guests get through."""

    family: str  # ip, ip6 or inet
    table: str
    chain: str
    owner: str
    fix: str


@dataclass(slots=True)
class _Chain:
    name: str
    forward: bool = False
    closed: bool = False
    jumps: set[str] = field(default_factory=set)
    opened: set[str] = field(default_factory=set)  # directions in which guests are let through: in, out


def closed_in_nftables(ruleset: str) -> list[Closed]:
    """Return the closed forward chains in what ``nft -j list ruleset`` printed (iptables-nft's are in it too).

    Raises `ValueError` on text of another shape.
    """
    listing = json.loads(ruleset)
    if not isinstance(listing, dict) or not isinstance(listing.get("nftables"), list):
        raise ValueError("not a listing of nft")
    tables: dict[tuple[str, str], dict[str, _Chain]] = {}
    for item in listing["nftables"]:
        if "chain" in item:
            about = item["chain"]
            chain = _chain(tables, about["family"], about["table"], about["name"])
            if about.get("hook") == "forward" and about.get("type") == "filter":
                chain.forward = True
                chain.closed = about.get("policy") == "drop"
        elif "rule" in item:
            about = item["rule"]
            _read_rule(_chain(tables, about["family"], about["table"], about["chain"]), about.get("expr", []))
    return [
        finding
        for (family, table), chains in tables.items()
        if family in ("ip", "ip6", "inet") and not table.startswith(BASE_NAME)
        for finding in _findings(family, table, chains)
    ]


def closed_in_iptables(saved: str, family: str) -> list[Closed]:
    """Return the closed forward chain in what ``iptables-legacy-save`` (or ``ip6tables-…``) printed."""
    chains: dict[str, _Chain] = {}
    table = ""
    for line in saved.splitlines():
        words = line.split()
        if line.startswith("*"):
            table = line[1:].strip()
        elif table != "filter" or not words:
            continue
        elif line.startswith(":") and len(words) >= 2:
            chain = chains.setdefault(words[0][1:], _Chain(words[0][1:]))
            if chain.name == "FORWARD":
                chain.forward, chain.closed = True, words[1] == "DROP"
        elif words[0] == "-A" and len(words) >= 3:
            _read_line(chains.setdefault(words[1], _Chain(words[1])), words[2:])
    return _findings(family, "filter", chains)


def _chain(tables: dict[tuple[str, str], dict[str, _Chain]], family: str, table: str, name: str) -> _Chain:
    return tables.setdefault((family, table), {}).setdefault(name, _Chain(name))


def _read_rule(chain: _Chain, expressions: Iterable[Mapping[str, Any]]) -> None:
    conditions: list[str | None] = []  # in, out, or None for any other
    for expression in expressions:
        (kind, about), *_ = expression.items()
        if kind == "match":
            conditions.append(_direction(about))
        elif kind in ("jump", "goto"):
            chain.jumps.add(about["target"])
        elif kind == "accept":
            chain.opened |= _opened(conditions)
        elif kind in _CLOSING:
            chain.closed = chain.closed or not conditions
        elif kind not in ("counter", "comment", "log"):
            conditions.append(None)  # some module of iptables: it may match or not


def _direction(match: Mapping[str, Any]) -> str | None:
    left = match.get("left")
    key = left["meta"].get("key") if isinstance(left, dict) and isinstance(left.get("meta"), dict) else None
    if match.get("op") != "==" or match.get("right") != _NFT_NAME:
        return None
    return {"iifname": "in", "oifname": "out"}.get(str(key))


def _read_line(chain: _Chain, words: list[str]) -> None:
    conditions: list[str | None] = []
    rest = iter(words)
    for word in rest:
        if word in ("-j", "-g"):
            target = next(rest, "")
            if target == "ACCEPT":
                chain.opened |= _opened(conditions)
            elif target in ("DROP", "REJECT"):
                chain.closed = chain.closed or not conditions
            else:
                chain.jumps.add(target)
            return
        if word in ("-i", "-o"):
            ours = next(rest, "") == _IPTABLES_NAME
            conditions.append(("in" if word == "-i" else "out") if ours else None)
        else:
            conditions.append(None)


def _opened(conditions: list[str | None]) -> set[str]:
    if not conditions:
        return {"in", "out"}
    return {conditions[0]} if len(conditions) == 1 and conditions[0] is not None else set()


def _findings(family: str, table: str, chains: Mapping[str, _Chain]) -> list[Closed]:
    found = []
    for chain in chains.values():
        if not chain.forward or not chain.closed:
            continue
        reached = _reached(chain, chains)
        opened = set[str]().union(*(item.opened for item in reached))
        if opened != {"in", "out"}:
            owner, fix = _owner(family, table, chain.name, chains)
            found.append(Closed(family, table, chain.name, owner, fix))
    return found


def _reached(start: _Chain, chains: Mapping[str, _Chain]) -> list[_Chain]:
    names, queue = {start.name}, [start]
    for chain in queue:
        for name in sorted(chain.jumps - names):
            if name in chains:
                names.add(name)
                queue.append(chains[name])
    return queue


def _owner(family: str, table: str, chain: str, chains: Iterable[str]) -> tuple[str, str]:
    names = set(chains)
    command = "ip6tables" if family == "ip6" else "iptables"
    if "DOCKER-USER" in names:
        return "Docker", _both(f"{command} -I DOCKER-USER -{{}} {_IPTABLES_NAME} -j ACCEPT", "i", "o")
    if any(name.startswith(("ufw-", "ufw6-")) for name in names):
        return "ufw", _both(f"ufw route allow {{}} on {_IPTABLES_NAME}", "in", "out")
    if table == "firewalld":
        return "firewalld", (
            f"firewall-cmd --permanent --zone=trusted --add-interface={_IPTABLES_NAME} && firewall-cmd --reload"
        )
    if (table, chain) == ("filter", "FORWARD"):
        return "iptables", _both(f"{command} -I FORWARD -{{}} {_IPTABLES_NAME} -j ACCEPT", "i", "o")
    rule = f"nft insert rule {family} {table} {chain} {{}} '\"{_NFT_NAME}\"' accept"
    return f"the nftables table {family} {table}", _both(rule, "iifname", "oifname")


def _both(command: str, one: str, other: str) -> str:
    return f"{command.format(one)} && {command.format(other)}"
