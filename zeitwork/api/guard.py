"""Who may ask: Host and Origin are checked before anything else sees a request.

A page in somebody's browser may send requests to 127.0.0.1 and, by DNS rebinding, read the answers under its own
name. So over TCP only loopback names are answered, and a request that a browser marks with an Origin must come from
a page that this endpoint served itself.
"""

from __future__ import annotations

from ipaddress import ip_address

from starlette.datastructures import Headers

from actors.model.errors import Problem


def check(headers: Headers, *, unix: bool) -> Problem | None:
    """Return why the request is refused, or None. Over the unix socket (no browser reaches it) any Host will do."""
    host = headers.get("host", "")
    if not unix and not is_loopback_host(host):
        return Problem(
            f"the Host header {host!r} is not a loopback name" if host else "the request has no Host header",
            field="Host",
            fix="use localhost, 127.0.0.1 or [::1] in the address",
            code="host-refused",
            status=421,
        )
    origin = headers.get("origin")
    if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
        return Problem(
            f"requests from pages of {origin!r} are refused",
            field="Origin",
            fix="send the request from a program, or from a page of this address",
            code="origin-refused",
            status=403,
        )
    return None


def is_loopback_host(host: str) -> bool:
    """Whether a Host header names this machine's loopback. Any port will do: ``ssh -L`` may change it."""
    name, port = host, ""
    if host.startswith("["):
        name, closed, rest = host[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            return False
        port = rest[1:]
    elif ":" in host:
        name, _, port = host.partition(":")
    if port and not (port.isascii() and port.isdigit()):
        return False
    if name.lower().rstrip(".") == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
