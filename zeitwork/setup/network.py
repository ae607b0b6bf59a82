"""What a host that was killed left in the machine's network. A host that ends in order takes it away by itself."""

from __future__ import annotations

import trio

from zeitwork.cli.output import problem_of
from zeitwork.setup.options import SetupOptions
from zeitwork.setup.tools import Tools


def left(options: SetupOptions, tools: Tools) -> bool:
    """Whether there is anything: the records of kernel settings and of routes, or the rules."""
    if any(record.exists() for record in (options.sysctl_record, options.sysctl_record.with_name("network.json"))):
        return True
    return tools.which("nft") is not None and tools.run(["nft", "list", "table", "inet", options.table], timeout=30).ok


def clear(options: SetupOptions) -> None:
    """Take it away: TAPs, rules, kernel settings. No VM may run any more. Raises a `Problem`."""
    from actors.tap.network import remove_leftovers  # loads a netlink library, which most runs do not need

    try:
        trio.run(remove_leftovers, options.tag, options.sysctl_record)
    except BaseExceptionGroup as group:
        raise problem_of(group) from group
