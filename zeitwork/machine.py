"""What the composition root reads from the machine: names, resolvers, identity. Small reads of local files."""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address
from pathlib import Path
from uuid import UUID

from actors.model.errors import Failed
from actors.model.ids import uuid7
from runtime import Environment

#: systemd-resolved lists the real servers here; /etc/resolv.conf then names only its stub on loopback.
_RESOLV = (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf"))
#: As many servers as a guest's C library reads.
_MOST_SERVERS = 3


def hostname() -> str:
    """Return this machine's name."""
    return socket.gethostname() or "localhost"


def architecture() -> str:
    """Return what kind of machine this is, such as ``x86_64``."""
    return os.uname().machine


def boot_id() -> str:
    """Return the kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def resolvers(files: tuple[Path, ...] = _RESOLV) -> tuple[str, ...]:
    """Return DNS servers that a guest can reach: not those on the host's loopback or on one link."""
    for file in files:
        try:
            lines = file.read_text(errors="replace").splitlines()
        except OSError:
            continue
        words = [line.split() for line in lines]
        found = [line[1] for line in words if len(line) >= 2 and line[0] == "nameserver"]
        usable = [server for server in found if _reachable(server)]
        if usable:
            return tuple(usable[:_MOST_SERVERS])
    return ()


def _reachable(server: str) -> bool:
    try:
        address = ip_address(server)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_link_local or address.is_unspecified)


def host_id(data: Path, env: Environment) -> UUID:
    """Return this host's identity, made once and kept in its data directory.

    Raises `Failed` when the file is there and holds something else: a new identity would orphan what runs here.
    """
    file = data / "host-id"
    try:
        return UUID(file.read_text().strip())
    except FileNotFoundError:
        pass
    except ValueError:
        raise Failed(f"{file} does not hold an id", field="data_dir", fix="restore it from a backup") from None
    made = uuid7(int(env.now() * 1000), env.entropy(10))
    scratch = file.with_suffix(".new")
    with scratch.open("w") as out:
        out.write(f"{made}\n")
        out.flush()
        os.fsync(out.fileno())
    scratch.rename(file)
    return made
