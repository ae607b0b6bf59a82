"""What a host that was killed left in the kernel. A host that ends in order takes it away by itself."""

from __future__ import annotations

import contextlib
from pathlib import Path

import trio

from actors.vm.cgroup import hierarchies
from zeitwork.cli.output import problem_of
from zeitwork.setup.options import SetupOptions
from zeitwork.setup.tools import Tools


def left(options: SetupOptions, tools: Tools) -> bool:
    """Whether there is anything: records of kernel settings and of routes, rules, control groups."""
    records = (options.sysctl_record, options.sysctl_record.with_name("network.json"))
    if any(record.exists() for record in records) or _groups(options):
        return True
    return tools.which("nft") is not None and tools.run(["nft", "list", "table", "inet", options.table], timeout=30).ok


def clear(options: SetupOptions) -> None:
    """Take it away: TAPs, rules, routes, kernel settings, empty control groups. No VM may run any more.

    Raises a `Problem`.
    """
    from actors.tap.network import remove_leftovers  # loads a netlink library, which most runs do not need

    try:
        trio.run(remove_leftovers, options.tag, options.sysctl_record)
    except BaseExceptionGroup as group:
        raise problem_of(group) from group
    for parent in _groups(options):
        for group_of_vm in [path for path in parent.iterdir() if path.is_dir()]:
            with contextlib.suppress(OSError):  # somebody is in it: not ours to end
                group_of_vm.rmdir()
        with contextlib.suppress(OSError):
            parent.rmdir()


def _groups(options: SetupOptions) -> list[Path]:
    """Return the parents of this host's control groups, one for each hierarchy that has it."""
    from actors.vm.settings import cgroup_parent  # as above

    try:
        roots = hierarchies(options.layout.at("/proc/self/mountinfo").read_text())
    except OSError:
        return []
    parents = [root / cgroup_parent(options.tag) for root in roots]
    return [parent for parent in parents if parent.is_dir()]
