"""Kernel settings under /proc/sys: those of one TAP, and those of the machine that routing needs.

Changes to the machine are written to a file *before* they are made, so that `zeitwork setup --remove` can undo them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from actors.model.errors import Failed
from actors.tap.refusals import refusal

SYSCTL_ROOT = Path("/proc/sys")
V4_FORWARD = "net/ipv4/ip_forward"
V6_FORWARD = "net/ipv6/conf/all/forwarding"
V6_DEFAULT_DISABLED = "net/ipv6/conf/default/disable_ipv6"


def link_sysctls(name: str, *, ipv6: bool) -> dict[str, str]:
    """Return the settings of a guest's link: it is told nothing by the guest, and answers only for itself."""
    v4, v6 = f"net/ipv4/conf/{name}", f"net/ipv6/conf/{name}"
    settings = {
        f"{v4}/rp_filter": "1",
        f"{v4}/arp_ignore": "1",  # the host's other addresses are none of a guest's business
        f"{v4}/accept_redirects": "0",
        f"{v4}/send_redirects": "0",
        f"{v4}/accept_source_route": "0",
        f"{v4}/proxy_arp": "0",
        f"{v6}/disable_ipv6": "0" if ipv6 else "1",
    }
    if ipv6:
        settings |= {
            f"{v6}/addr_gen_mode": "1",  # no link-local of the kernel's own beside fe80::1
            f"{v6}/accept_ra": "0",
            f"{v6}/autoconf": "0",
            f"{v6}/accept_redirects": "0",
            f"{v6}/accept_dad": "0",
        }
    return settings


def read(name: str, root: Path = SYSCTL_ROOT) -> str | None:
    """Return a setting, None when this kernel has not got it."""
    try:
        return (root / name).read_text().strip()
    except OSError:
        return None


def write(name: str, value: str, root: Path = SYSCTL_ROOT) -> None:
    """Change a setting. Raises `Problem` with the kernel's words."""
    try:
        (root / name).write_text(value)
    except OSError as error:
        raise refusal(f"set {name.replace('/', '.')} to {value}", error) from error


def write_existing(settings: Mapping[str, str], root: Path = SYSCTL_ROOT) -> None:
    """Change those of ``settings`` that this kernel has and that differ."""
    for name, value in settings.items():
        if read(name, root) not in (None, value):
            write(name, value, root)


def plan_forwarding(root: Path = SYSCTL_ROOT, *, ipv6: bool) -> dict[str, tuple[str, str]]:
    """Return the machine's settings that have to change for routing, ``name: (before, after)``, in order.

    Forwarding IPv6 makes the kernel ignore router advertisements on interfaces with ``accept_ra=1``: a machine that
    lives on them would lose its default route. So those become 2 ("accept although forwarding") first.
    """
    changes = {}
    if read(V4_FORWARD, root) == "0":
        changes[V4_FORWARD] = ("0", "1")
    if ipv6 and read(V6_FORWARD, root) == "0":
        for folder in sorted((root / "net/ipv6/conf").iterdir()):
            setting = f"net/ipv6/conf/{folder.name}/accept_ra"
            # "all" does nothing by itself; "default" is for interfaces to come.
            if folder.name not in ("all", "lo") and read(setting, root) == "1":
                changes[setting] = ("1", "2")
        changes[V6_FORWARD] = ("0", "1")
    return changes


def apply_recorded(changes: Mapping[str, tuple[str, str]], record: Path, root: Path = SYSCTL_ROOT) -> None:
    """Make ``changes``, after adding them to ``record`` durably (what an earlier run recorded stays first)."""
    if not changes:
        return
    earlier = load_record(record)
    merged = {name: [before, after] for name, (before, after) in earlier.items()}
    for name, (before, after) in changes.items():
        merged.setdefault(name, [before, after])
    _save(record, merged)
    for name, (_, after) in changes.items():
        write(name, after, root)


def load_record(record: Path) -> dict[str, tuple[str, str]]:
    """Return what was changed, ``name: (before, after)``. Empty when nothing was. Raises `Failed` when unreadable."""
    try:
        content = json.loads(record.read_text())
        return {str(name): (str(pair[0]), str(pair[1])) for name, pair in content.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise Failed(f"the record of changed kernel settings {record} can't be read: {error}") from error


def undo_recorded(record: Path, root: Path = SYSCTL_ROOT) -> list[str]:
    """Put back every recorded setting that still has the value we gave it; return their names. The record goes.

    The last change is undone first: forwarding goes off before ``accept_ra`` falls back to 1. (After a reboot nothing
    has our value any more, and nothing is touched.)
    """
    undone = []
    for name, (before, after) in reversed(load_record(record).items()):
        if read(name, root) == after:
            write(name, before, root)
            undone.append(name)
    record.unlink(missing_ok=True)
    return undone


def _save(record: Path, content: dict[str, list[str]]) -> None:
    fresh = record.with_name(record.name + ".new")
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("w") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(record)
    except OSError as error:
        raise refusal(f"write {record}", error) from error
