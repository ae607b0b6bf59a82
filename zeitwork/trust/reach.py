"""Whether a DSN means the same database on another machine."""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from actors.model.errors import Conflict


def local_part(dsn: str) -> str | None:
    """Return what in a DSN names the machine that it is used on: a loopback address, a socket's directory or nothing.

    None when all of it can be reached from elsewhere, as far as one can tell.
    """
    try:
        words = conninfo_to_dict(dsn)
    except ProgrammingError:
        return None  # whoever uses it says so better
    if words.get("service"):
        return None
    # An address, where there is one, is what is connected to; the name is for the certificate then.
    hosts = str(words.get("hostaddr") or words.get("host") or "")
    for host in hosts.split(","):
        name = host.strip()
        if not name:
            return "no host (a socket of this machine)"
        if name.startswith(("/", "@")) or name.lower().rstrip(".") in ("localhost", "localhost.localdomain"):
            return name
        try:
            if ip_address(name).is_loopback:
                return name
        except ValueError:
            continue
    return None


def on_this_machine(address: str) -> bool:
    """Tell whether an IP address is one of this machine's, by whether a socket can have it; nothing is sent."""
    try:
        ip = ip_address(address.strip("[]").partition("%")[0])
        family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(ip), 0))
    except (OSError, ValueError):
        return False
    return True


def refuse_local(dsn: str, remote: str) -> None:
    """Raise `Conflict` when a new host, which comes from this address, could not reach the cluster's database by it."""
    found = local_part(dsn)
    if found is None or on_this_machine(remote):
        return
    raise Conflict(
        f"the database of this cluster is known by {found}, which is another one on the new host",
        field="database_url",
        code="local-database",
        fix="start the host that is joined with a --database-url that names the database's machine, "
        "or give the new host one of its own",
    )


def said(error: OSError) -> str:
    """Return what the system said of a connection that failed; trio's own words are only how many it tried."""
    below = error.__cause__
    while isinstance(below, BaseExceptionGroup) and below.exceptions:
        below = below.exceptions[0]
    first = below if isinstance(below, OSError) else error
    return os.strerror(first.errno).lower() if first.errno else str(first)
