"""What a TAP actor understands."""

from __future__ import annotations

from dataclasses import dataclass

from runtime import Request


@dataclass(frozen=True, slots=True)
class TapDevice:
    """A host's end of a virtual machine's network card: ``name`` of the TAP, ``mac`` of the *guest's* card."""

    name: str
    mac: str


@dataclass(frozen=True, slots=True)
class TapUp(Request[TapDevice]):
    """Make the TAP, its addresses, routes and rules, or adopt what is there. Asking twice does no harm.

    Fails with `actors.model.errors.Problem` when the machine refuses (no /dev/net/tun, name taken, no memory).
    """


@dataclass(frozen=True, slots=True)
class TapDown(Request[None]):
    """Remove the TAP and its rules. Asking twice, or for what never was, does no harm."""
