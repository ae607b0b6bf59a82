"""Every message that may travel between hosts, under its name on the wire. Names and fields stay; see `Registry`."""

from __future__ import annotations

from actors.commands.messages import NAME as COMMANDS
from actors.commands.messages import Command
from runtime.links.registry import Registry
from runtime.membership import over_links


def wire_registry() -> Registry:
    """Return the registry of this version."""
    registry = Registry()
    over_links.register(registry)
    registry.add(Command, "host.command", to=[COMMANDS])
    return registry
