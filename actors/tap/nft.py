"""The text of our nftables table: pure. One table for each host process, nothing outside it is ever touched.

What it says, for packets from and to guests:

- A guest speaks only from the addresses of its lease (and, for neighbour discovery, from link-local ones).
- Guest to host: nothing but answers and neighbour discovery. Host to guest: anything.
- Guest to guest on one machine: nothing, whichever host process they belong to.
- Guest to outside: anything but link-local addresses (clouds keep credentials there). IPv4 leaves under the host's
  address; so does IPv6 from a private prefix (fc00::/7), which nobody outside could answer.
- Outside to guest: anything on IPv6, that is what its address is for; on IPv4 only answers.

Accepting in one table never overrides a drop in another one: what Docker's or ufw's tables drop stays dropped
(`actors.tap.checks` finds out). ARP does not pass here; each guest has a link of its own, and the host's neighbour
entries are permanent, so there is nothing in ARP that a guest could win.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from actors.model.network import Lease
from actors.tap.wanted import NAME_PREFIX

FAMILY = "inet"
BASE_NAME = "zeitwork"
SETS = ("taps", "pairs4", "pairs6", "guests4", "guests6")

_TABLE_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_LINK_NAME = re.compile(r"[A-Za-z0-9_-]{1,15}")


def table_name(tag: str) -> str:
    """Return the table of the host process with this tag (`Config.tag`; empty for the machine's main one)."""
    name = f"{BASE_NAME}_{tag}" if tag else BASE_NAME
    if not _TABLE_NAME.fullmatch(name):
        raise ValueError(f"{tag!r} can't be part of a table's name")
    return name


@dataclass(frozen=True, slots=True)
class Guest:
    """One guest in the rules: its TAP and what it may speak from."""

    tap: str
    lease: Lease

    def __post_init__(self) -> None:
        if not _LINK_NAME.fullmatch(self.tap):
            raise ValueError(f"{self.tap!r} is not a network device's name")


_RULES = """
  set taps {{ type ifname; }}
  set pairs4 {{ type ifname . ipv4_addr; }}
  set pairs6 {{ type ifname . ipv6_addr; }}
  set guests4 {{ type ipv4_addr; }}
  set guests6 {{ type ipv6_addr; }}

  chain from_guest {{
    iifname . ip saddr @pairs4 return
    iifname . ip6 saddr @pairs6 return
    ip6 saddr fe80::/10 ip6 hoplimit 255 icmpv6 type {{ {nd}, nd-neighbor-advert }} return
    ip6 saddr :: ip6 hoplimit 255 icmpv6 type {{ {nd} }} return
    counter drop comment "not this guest's address"
  }}

  chain to_host {{
    ct state established,related accept
    icmpv6 type {{ {nd}, nd-neighbor-advert }} accept
    counter drop comment "guest to host"
  }}

  chain to_outside {{
    ip daddr 169.254.0.0/16 counter drop comment "link-local, cloud metadata"
    ip6 daddr {{ fe80::/10, fd00:ec2::/32 }} counter drop comment "link-local, cloud metadata"
    accept
  }}

  chain to_guest {{
    iifname "{prefix}*" counter drop comment "guest to guest"
    ct state established,related accept
    oifname . ip6 daddr @pairs6 accept
    counter drop comment "outside to guest"
  }}

  chain prerouting {{
    type filter hook prerouting priority raw; policy accept;
    iifname @taps jump from_guest
  }}

  chain input {{
    type filter hook input priority filter; policy accept;
    iifname @taps jump to_host
  }}

  chain forward {{
    type filter hook forward priority filter; policy accept;
    oifname @taps jump to_guest
    iifname @taps oifname "{prefix}*" counter drop comment "guest to guest"
    iifname @taps jump to_outside
  }}

  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr @guests4 oifname != "{prefix}*" masquerade
    ip6 saddr @guests6 ip6 saddr fc00::/7 ip6 daddr != fc00::/7 oifname != "{prefix}*" masquerade
  }}
"""


#: Name of an empty chain whose only purpose is to say which rules the table was made with.
EDITION = "edition_" + hashlib.sha256(_RULES.encode()).hexdigest()[:12]

#: What the sets of a table hold: set name to elements as nft reads them.
Elements = Mapping[str, Iterable[str]]


def render_table(table: str, content: Elements) -> str:
    """Return a script that makes ``table`` be exactly this, whatever it was, in one transaction."""
    # "add" first: deleting what is not there would fail the whole transaction.
    lines = [f"table {FAMILY} {table} {{}}", f"delete table {FAMILY} {table}", f"table {FAMILY} {table} {{"]
    rules = _RULES.format(prefix=NAME_PREFIX, nd="nd-router-solicit, nd-neighbor-solicit")
    return "\n".join(lines) + rules + f"\n  chain {EDITION} {{}}\n}}\n" + render_elements("add", table, content)


def render_elements(verb: str, table: str, content: Elements) -> str:
    """Return a script that adds elements to the sets or deletes them; ``verb`` is ``add`` or ``delete``.

    Adding what is there does no harm; deleting what is not fails, so add first where that is not sure.
    """
    return "".join(
        f"{verb} element {FAMILY} {table} {name} {{ {', '.join(sorted(content[name]))} }}\n"
        for name in SETS
        if content.get(name)
    )


def render_delete(table: str) -> str:
    """Return a script that removes the table, whether it is there or not."""
    return f"table {FAMILY} {table} {{}}\ndelete table {FAMILY} {table}\n"


def elements(guests: Iterable[Guest]) -> dict[str, set[str]]:
    """Return what each set should hold for ``guests``, as nft writes it."""
    content: dict[str, set[str]] = {name: set() for name in SETS}
    for guest in guests:
        content["taps"].add(f'"{guest.tap}"')
        content["pairs4"].add(f'"{guest.tap}" . {guest.lease.v4}')
        content["guests4"].add(str(guest.lease.v4))
        if guest.lease.v6 is not None:
            content["pairs6"].add(f'"{guest.tap}" . {guest.lease.v6}')
            content["guests6"].add(str(guest.lease.v6))
    return content


@dataclass(frozen=True, slots=True)
class TableState:
    """A table as found in the kernel: made with our present rules or not, and what its sets hold."""

    current: bool
    content: dict[str, set[str]]


def parse_table(text: str) -> TableState:
    """Return what ``nft -j list table`` printed. Raises `ValueError` on text of another shape."""
    listing = json.loads(text)
    if not isinstance(listing, dict) or not isinstance(listing.get("nftables"), list):
        raise ValueError("not a listing of nft")
    content: dict[str, set[str]] = {name: set() for name in SETS}
    chains: dict[str, int] = {}
    sets = set()
    for item in listing["nftables"]:
        if "set" in item:
            name = item["set"].get("name")
            sets.add(name)
            if name in content:
                content[name] = {_element(name, entry) for entry in item["set"].get("elem", [])}
        elif "chain" in item:
            chains.setdefault(item["chain"]["name"], 0)
        elif "rule" in item:
            chain = item["rule"]["chain"]
            chains[chain] = chains.get(chain, 0) + 1
    complete = EDITION in chains and set(SETS) <= sets and all(chains.get(name) == n for name, n in _COUNTS.items())
    return TableState(current=complete, content=content)


def of_taps(content: Elements, chosen: Callable[[str], bool]) -> dict[str, set[str]]:
    """Return the elements that belong to the TAPs which ``chosen`` picks by name.

    Addresses that stand alone belong to them when a pair says so, and to nobody else's pair.
    """
    found: dict[str, set[str]] = {}
    for name in ("taps", "pairs4", "pairs6"):
        found[name] = {item for item in content.get(name, ()) if chosen(item.split('"')[1])}
    for name, pairs in (("guests4", "pairs4"), ("guests6", "pairs6")):
        staying = {_address(pair) for pair in content.get(pairs, ()) if pair not in found[pairs]}
        found[name] = {_address(pair) for pair in found[pairs]} & set(content.get(name, ())) - staying
    return found


def _address(pair: str) -> str:
    return pair.rpartition(" ")[2]


def _element(set_name: str, entry: Any) -> str:
    if isinstance(entry, dict) and "elem" in entry:
        entry = entry["elem"]["val"]
    if isinstance(entry, dict) and "concat" in entry:
        first, second = entry["concat"]
        return f'"{first}" . {ip_address(second)}'
    # nft has its own way to write some addresses (::ffff:10.0.0.1); ours is Python's.
    return f'"{entry}"' if set_name == "taps" else str(ip_address(entry))


def _count_rules(rules: str) -> dict[str, int]:
    """Return how many rules each chain has: somebody may have flushed a chain and left the table."""
    counts: dict[str, int] = {}
    chain = None
    for line in (line.strip() for line in rules.splitlines()):
        if line.startswith("chain "):
            chain = line.split()[1]
            counts[chain] = 0
        elif line in ("}}", ""):
            chain = None
        elif chain is not None and not line.startswith("type "):
            counts[chain] += 1
    return counts


_COUNTS = _count_rules(_RULES)
