"""Hosts that come and go because somebody wants that, as items of a plan. ``host`` is a number."""

from __future__ import annotations

from dataclasses import dataclass

from tests.simulation.item import Request


@dataclass(frozen=True)
class Remove(Request):
    """``zeitwork nodes rm``, which is refused while it gives signs of life; ``dead``: it is said to come back no more.

    Its machine comes back whenever it does: as the host that it was, or refused for good if it was said to be dead.
    """

    host: int
    via: int
    dead: bool = False
    kind = "remove"


@dataclass(frozen=True)
class Leave(Request):
    """``zeitwork leave`` on the host itself; ``force``: what runs there is stopped and runs elsewhere.

    With ``force`` on a machine that was removed and is let in no more: it forgets that it ever was a host.
    """

    host: int
    force: bool = False
    kind = "leave"


@dataclass(frozen=True)
class Invite(Request):
    """Have a machine that is no host become one within ``timeout`` seconds; ``wrong``: with a code that is not its."""

    host: int
    via: int
    timeout: float = 40.0
    wrong: bool = False
    kind = "invite"
