"""What a TAP should look like, and what has to be done to one that does not: pure, the kernel is elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Literal
from uuid import UUID

from actors.model.ids import short_id
from actors.model.network import GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, Lease, guest_mac

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network

#: Every TAP's name starts so, whichever host process on the machine made it; the rules rely on it.
NAME_PREFIX = "zw"


def tap_name(placement_id: UUID) -> str:
    """Return the name of a placement's TAP: 12 characters, an interface may have 15."""
    return NAME_PREFIX + short_id(placement_id)


def alias(owner: str, placement_id: UUID) -> str:
    """Return the note kept on the device itself that says whose it is, so that a restarted host knows its own."""
    return f"zeitwork:{owner}:{placement_id}"


def read_alias(text: str | None) -> tuple[str, UUID] | None:
    """Return ``(owner, placement id)`` of an alias, None when it is not one of ours."""
    parts = (text or "").split(":")
    if len(parts) != 3 or parts[0] != "zeitwork":
        return None
    try:
        return parts[1], UUID(parts[2])
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Facts:
    """A TAP as the host sees it. ``routes`` are those with our protocol number, ``neighbours`` the permanent ones."""

    mac: str
    alias: str
    up: bool
    addresses: frozenset[Interface]
    routes: frozenset[Network]
    neighbours: frozenset[tuple[Address, str]]


def wanted_facts(owner: str, placement_id: UUID, lease: Lease) -> Facts:
    """Return what the TAP of a placement with ``lease`` should look like. IPv6 only when the lease has it."""
    mac = guest_mac(lease)
    addresses: set[Interface] = {IPv4Interface((GATEWAY_V4, 32))}
    routes: set[Network] = {IPv4Network(lease.v4)}
    neighbours: set[tuple[Address, str]] = {(lease.v4, mac)}
    if lease.v6 is not None:
        addresses.add(IPv6Interface((GATEWAY_V6, 64)))
        routes.add(IPv6Network(lease.v6))
        neighbours.add((lease.v6, mac))
    return Facts(
        mac=GATEWAY_MAC,
        alias=alias(owner, placement_id),
        up=True,
        addresses=frozenset(addresses),
        routes=frozenset(routes),
        neighbours=frozenset(neighbours),
    )


@dataclass(frozen=True, slots=True)
class SetMac:
    """Give the device its MAC address. The kernel forgets every neighbour then, even the permanent ones."""

    mac: str


@dataclass(frozen=True, slots=True)
class SetAlias:
    """Give the device its note."""

    alias: str


@dataclass(frozen=True, slots=True)
class BringUp:
    """Set the device up."""


@dataclass(frozen=True, slots=True)
class Change:
    """Add or remove one address, route or neighbour."""

    verb: Literal["add", "del"]
    item: Interface | Network | tuple[Address, str]


Step = SetMac | SetAlias | BringUp | Change


def _order(item: Interface | Network | tuple[Address, str]) -> tuple[int, str]:
    return (4 if (item[0] if isinstance(item, tuple) else item).version == 4 else 6, str(item))


def mend(found: Facts, wanted: Facts) -> list[Step]:
    """Return the steps from ``found`` to ``wanted``, in an order the kernel accepts; none when they are equal.

    What should not be there goes first (a neighbour with another MAC stands in the way of the right one). Routes come
    after the device is up, because the kernel refuses them before.
    """
    steps: list[Step] = []
    if found.mac != wanted.mac:
        steps.append(SetMac(wanted.mac))
        found = replace(found, neighbours=frozenset())
    if found.alias != wanted.alias:
        steps.append(SetAlias(wanted.alias))
    for old, new in (
        (found.neighbours, wanted.neighbours),
        (found.routes, wanted.routes),
        (found.addresses, wanted.addresses),
    ):
        steps += [Change("del", item) for item in sorted(old - new, key=_order)]
    # Addresses before up: no moment in which the kernel would choose one by itself.
    steps += [Change("add", item) for item in sorted(wanted.addresses - found.addresses, key=_order)]
    if wanted.up and not found.up:
        steps.append(BringUp())
    # A device that goes down loses its routes, one that was found down has none to keep.
    steps += [Change("add", item) for item in sorted(wanted.routes - found.routes, key=_order)]
    steps += [Change("add", item) for item in sorted(wanted.neighbours - found.neighbours, key=_order)]
    return steps
