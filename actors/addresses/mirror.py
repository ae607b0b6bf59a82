"""Keeps a table like the kernel's: asks for everything once, then follows events. Does no I/O itself."""

from __future__ import annotations

import errno
import os

from actors.addresses.table import Table
from actors.addresses.wire import (
    AF_INET,
    AF_INET6,
    AF_UNSPEC,
    GET_ADDRESSES,
    GET_LINKS,
    GET_ROUTES,
    End,
    Said,
    ask,
    parse,
)
from actors.model.network import OwnAddresses

_QUESTIONS = ((GET_LINKS, AF_UNSPEC), (GET_ADDRESSES, AF_UNSPEC), (GET_ROUTES, AF_INET), (GET_ROUTES, AF_INET6))
#: What a kernel without IPv6 answers.
_NO_SUCH_FAMILY = (errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EINVAL)
#: Torn answers after which no more are asked for at once.
_MOST_TORN = 3


class Mirror:
    """``own`` is None until the kernel has answered everything once."""

    def __init__(self) -> None:
        self.own: OwnAddresses | None = None
        self._table: Table | None = None  # complete
        self._fresh: Table | None = None  # being filled by answers
        self._question = 0
        self._number = 0
        self._again = False
        self._torn = 0  # answers in a row that were

    def begin(self) -> bytes | None:
        """Ask for everything again; returns what to send, None when questions are on their way already."""
        if self._fresh is not None:
            self._again = True
            return None
        self._fresh, self._question, self._again = Table(), 0, False
        return self._ask()

    def feed(self, data: bytes) -> bytes | None:
        """Take a datagram; returns what to send next, if anything.

        Raises `OSError` when the kernel refuses an answer, `ValueError` for what is no netlink.
        """
        changed, send = False, None
        for said in parse(data):
            if isinstance(said, End):
                if said.number == self._number and self._fresh is not None:
                    send = self._answered(said)
                    changed = changed or self._fresh is None
                continue
            changed = self._take(said) or changed
        if changed and self._table is not None:
            self.own = self._table.own()
        return self._begin_again() if send is None else send

    def _take(self, said: Said) -> bool:
        # An answer is as true as an event: both tables take both.
        if self._fresh is not None:
            self._again = self._again or self._fresh.loses_routes(said)
            self._fresh.apply(said)
        if self._table is None:
            return False
        self._again = self._again or self._table.loses_routes(said)
        return self._table.apply(said)

    def _begin_again(self) -> bytes | None:
        return self.begin() if self._again and self._fresh is None else None

    def _answered(self, end: End) -> bytes | None:
        if end.torn:
            # Where VMs come and go all the time each answer is torn; the slow timer asks again anyway.
            self._torn += 1
            self._again = self._again or self._torn <= _MOST_TORN
        if end.errno and not (_QUESTIONS[self._question][1] == AF_INET6 and end.errno in _NO_SUCH_FAMILY):
            raise OSError(end.errno, os.strerror(end.errno))
        self._question += 1
        if self._question < len(_QUESTIONS):
            return self._ask()
        if not self._again:
            self._torn = 0
        self._table, self._fresh = self._fresh, None
        return None

    def _ask(self) -> bytes:
        self._number += 1
        kind, family = _QUESTIONS[self._question]
        return ask(kind, family, self._number)
