"""The route part of pyroute2, without the rest of it.

``import pyroute2`` loads every protocol that it knows: 11 MB that stay for the life of the process. The route socket
alone needs half of that. So the package's own ``__init__`` is kept from running while the one module is imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from actors.tap.refusals import refusal

_PACKAGE = "pyroute2"
_RTM_GETADDR, _RTM_GETROUTE, _RTM_GETNEIGH = 22, 26, 30
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_RT_TABLE_MAIN = 254
_lock = threading.Lock()
_loaded: list[_Parts] = []


@dataclass(frozen=True, slots=True)
class _Parts:
    """What is used of pyroute2: its route socket, and the messages of the dumps that we filter in the kernel."""

    socket: Any
    address: Any
    route: Any
    neighbour: Any


def _parts() -> _Parts:
    with _lock:
        if not _loaded:
            _loaded.append(_import_light() if _PACKAGE not in sys.modules else _import())
        return _loaded[0]


def _import() -> _Parts:
    messages = f"{_PACKAGE}.netlink.rtnl"
    return _Parts(
        socket=importlib.import_module(f"{_PACKAGE}.iproute.linux").IPRoute,
        address=importlib.import_module(f"{messages}.ifaddrmsg").ifaddrmsg,
        route=importlib.import_module(f"{messages}.rtmsg").rtmsg,
        neighbour=importlib.import_module(f"{messages}.ndmsg").ndmsg,
    )


def _import_light() -> _Parts:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        return _import()
    shell = ModuleType(_PACKAGE)
    shell.__path__ = list(spec.submodule_search_locations)
    sys.modules[_PACKAGE] = shell
    try:
        return _import()
    finally:
        # Whoever imports the package later gets the real one.
        if sys.modules.get(_PACKAGE) is shell:
            del sys.modules[_PACKAGE]


@contextmanager
def netlink() -> Iterator[Any]:
    """Open a route socket in the calling thread's network namespace; everything below may block for milliseconds.

    Raises `Problem` when the kernel gives none. Errors of single requests are `OSError` with an ``errno``: see `code`.
    """
    try:
        connection = _parts().socket(ext_ack=True, strict_check=True)
    except OSError as error:
        raise refusal("open a netlink socket", error) from error
    try:
        yield connection
    finally:
        connection.close()


def addresses_of(connection: Any, index: int) -> list[Any]:
    """Return the addresses of one device. The kernel picks them: a machine has thousands of TAPs."""
    message = _parts().address()
    message["index"] = index
    return _dump(connection, message, _RTM_GETADDR)


def routes_of(connection: Any, index: int) -> list[Any]:
    """Return the routes of both families in the main table that leave by one device."""
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        message = _parts().route()
        message["family"] = family
        message["attrs"] = [("RTA_OIF", index), ("RTA_TABLE", _RT_TABLE_MAIN)]
        found += _dump(connection, message, _RTM_GETROUTE)
    return found


def neighbours_of(connection: Any, index: int) -> list[Any]:
    """Return the neighbours on one device."""
    message = _parts().neighbour()
    message["attrs"] = [("NDA_IFINDEX", index)]
    return _dump(connection, message, _RTM_GETNEIGH)


def _dump(connection: Any, message: Any, kind: int) -> list[Any]:
    message["header"]["type"] = kind
    message["header"]["flags"] = _NLM_F_REQUEST | _NLM_F_DUMP
    return list(connection.nlm_request_batch([message]))


def code(error: BaseException) -> int | None:
    """Return the errno of a failed netlink request, None when ``error`` is something else."""
    number = getattr(error, "code", None)
    if number is None and isinstance(error, OSError):
        number = error.errno
    return number if isinstance(number, int) else None
