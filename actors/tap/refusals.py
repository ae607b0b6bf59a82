"""What the kernel's refusals mean, in words that say what to do."""

from __future__ import annotations

import errno
import os

from actors.model.errors import Conflict, Failed, Problem, Unavailable

_SCARCE = {errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EMFILE, errno.ENFILE}


def refusal(what: str, error: Exception) -> Problem:
    """Return the problem that ``error`` (an `OSError` or netlink error) is, while trying to ``what``."""
    number = getattr(error, "code", None) or getattr(error, "errno", None)
    words = os.strerror(number) if isinstance(number, int) and number > 0 else str(error)
    detail = f"can't {what}: {words}"
    if number in (errno.EPERM, errno.EACCES):
        return Failed(detail, fix="run Zeitwork as root (it needs CAP_NET_ADMIN)")
    if number in _SCARCE:
        return Unavailable(detail, fix="the machine is out of memory, file descriptors or table space; free some")
    if number in (errno.EEXIST, errno.EBUSY):
        return Conflict(detail, fix="something else holds it; look with: ip link; ip route")
    return Failed(detail)
