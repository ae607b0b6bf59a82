"""Addresses of a host and of a virtual machine on it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

#: Every guest's default gateways: the host's end of its TAP answers at these, so no guest needs to know its neighbours.
GATEWAY_V4 = IPv4Address("169.254.0.1")
GATEWAY_V6 = IPv6Address("fe80::1")


@dataclass(frozen=True, slots=True)
class HostNetwork:
    """Where a host's guests live: ``v6`` a /64 or None when IPv6 is off, ``v4`` the pool of this host."""

    v6: IPv6Network | None
    v4: IPv4Network


@dataclass(frozen=True, slots=True)
class Lease:
    """The addresses of one placement: a /128 of the host's /64 and an IPv4 address of its pool."""

    v6: IPv6Address | None
    v4: IPv4Address


def guest_mac(lease: Lease) -> str:
    """Return the locally administered MAC address of a guest, derived from its IPv4 address (unique on its host)."""
    octets = lease.v4.packed
    return "06:00:" + ":".join(f"{octet:02x}" for octet in octets)


#: MAC of the host's end of every TAP. Each TAP is its own link, so one address serves all.
GATEWAY_MAC = "06:00:a9:fe:00:01"


@dataclass(frozen=True, slots=True)
class OwnAddress:
    """An address that a host has itself. ``primary``: the one that others reach it by in this family."""

    interface: str
    address: IPv4Interface | IPv6Interface
    primary: bool = False


@dataclass(frozen=True, slots=True)
class OwnAddresses:
    """All of a host's own addresses that reach beyond one link, primary ones first; ``main`` is what it is called by.

    ``main`` is the primary IPv6 address when that is a public one, else the primary IPv4 address, else what there is;
    None while there is nothing.
    """

    items: tuple[OwnAddress, ...] = ()
    main: OwnAddress | None = None
