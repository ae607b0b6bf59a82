"""What is known of this machine's links, addresses and default routes, and which address is the primary one."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Interface, IPv6Address, IPv6Network

from actors.addresses.wire import AF_INET, AF_INET6, Default, Held, Interface, Link, Said
from actors.model.network import OwnAddress, OwnAddresses

#: Addresses that are listed at most; the primary ones are among them.
MOST = 256
#: IPv6 addresses that are routed in the Internet; all others are of a site.
_PUBLIC = IPv6Network("2000::/3")

_RouteKey = tuple[int, int, int, bytes]


class Table:
    """Takes what the kernel says, in any order and any number of times."""

    def __init__(self) -> None:
        self._links: dict[int, Link] = {}
        self._held: dict[tuple[int, Interface], Held] = {}
        self._defaults: dict[_RouteKey, Default] = {}

    def apply(self, said: Said) -> bool:
        """Take one message; True when it may have changed `own`.

        The kernel does not tell of IPv4 routes that go with their device or address: whoever sees `loses_routes` must
        ask for all again.
        """
        match said:
            case Link(index=index, up=None):
                self._links.pop(index, None)
                if not self._concerns(index):
                    return False
                self._held = {key: held for key, held in self._held.items() if key[0] != index}
                self._forget_routes(index)
                return True
            case Link(index=index):
                before, self._links[index] = self._links.get(index), said
                changed = before != said and self._concerns(index)
                if not said.up:
                    self._forget_routes(index)
                return changed
            case Held():
                key = (said.index, said.address)
                if not said.present:
                    return self._held.pop(key, None) is not None
                before_held, self._held[key] = self._held.get(key), said
                return before_held != said
            case Default():
                return self._apply_default(said)
        return False

    def loses_routes(self, said: Said) -> bool:
        """Whether routes may have gone silently with this message. To be asked before `apply`."""
        match said:
            case Link(index=index, up=up):
                before = self._links.get(index)
                return not up and before is not None and bool(before.up) and self._concerns(index)
            case Held(address=IPv4Interface(), present=False):
                return (said.index, said.address) in self._held
        return False

    def own(self) -> OwnAddresses:
        """Return the addresses on links that are up, with the primary ones chosen."""
        held = [one for one in self._held.values() if self._is_up(one.index)]
        primaries = [one for family in (AF_INET6, AF_INET) if (one := self._primary(held, family)) is not None]
        if not primaries and held:
            # No way out: the address on the first device that leads somewhere, rarely a bridge for containers.
            primaries = [min(held, key=lambda one: (self._links[one.index].inner, one.index, _rank(one)))]
        chosen = {(one.index, one.address) for one in primaries}
        rest = sorted(
            (one for one in held if (one.index, one.address) not in chosen), key=lambda one: (one.index, _rank(one))
        )
        items = tuple(
            OwnAddress(self._links[one.index].name, one.address, (one.index, one.address) in chosen)
            for one in (*primaries, *rest)[:MOST]
        )
        return OwnAddresses(items, _main([item for item in items if item.primary]))

    def _apply_default(self, route: Default) -> bool:
        before = dict(self._defaults)
        if route.replaces:
            kept = {
                key: other
                for key, other in self._defaults.items()
                if (other.family, other.metric) != (route.family, route.metric)
            }
            self._defaults = kept
        key = (route.family, route.metric, route.index, route.gateway)
        if route.present:
            self._defaults[key] = route
        else:
            self._defaults.pop(key, None)
        return before != self._defaults

    def _forget_routes(self, index: int) -> None:
        """Forget the routes by a device that went down, as the kernel does."""
        self._defaults = {key: route for key, route in self._defaults.items() if route.index != index}

    def _concerns(self, index: int) -> bool:
        """Whether a device has addresses or routes of interest: thousands of TAPs have none."""
        return any(key[0] == index for key in self._held) or any(
            route.index == index for route in self._defaults.values()
        )

    def _is_up(self, index: int) -> bool:
        link = self._links.get(index)
        return link is not None and bool(link.up)

    def _primary(self, held: Iterable[Held], family: int) -> Held | None:
        mine = [one for one in held if (one.address.version == 4) == (family == AF_INET)]
        routes = [route for route in self._defaults.values() if route.family == family and self._is_up(route.index)]
        for route in sorted(routes, key=lambda route: (route.metric, route.index, route.gateway)):
            wished = [one for one in mine if one.address.ip == route.source]
            found = wished or [one for one in mine if one.index == route.index]
            if found:
                return min(found, key=_rank)
        return None


def _is_public(address: Interface) -> bool:
    return isinstance(address.ip, IPv6Address) and address.ip in _PUBLIC


def _rank(held: Held) -> tuple[bool, bool, int, int]:
    """Return what sorts the better address first; the number decides ties, so that the choice is always the same."""
    return (
        held.spare,
        held.address.version == 6 and not _is_public(held.address),
        held.address.version,
        int(held.address),
    )


def _main(primaries: list[OwnAddress]) -> OwnAddress | None:
    public = [item for item in primaries if _is_public(item.address)]
    fourth = [item for item in primaries if item.address.version == 4]
    return next(iter([*public, *fourth, *primaries]), None)
