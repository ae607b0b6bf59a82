"""The route part of pyroute2, without the rest of it.

``import pyroute2`` loads every protocol that it knows: 11 MB that stay for the life of the process. The route socket
alone needs half of that. So the package's own ``__init__`` is kept from running while the one module is imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from actors.tap.refusals import refusal

_PACKAGE = "pyroute2"
_lock = threading.Lock()
_loaded: list[Any] = []


def _route_socket() -> Any:
    with _lock:
        if not _loaded:
            _loaded.append(_import_light() if _PACKAGE not in sys.modules else _import())
        return _loaded[0]


def _import() -> Any:
    return importlib.import_module("pyroute2.iproute.linux").IPRoute


def _import_light() -> Any:
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
        connection = _route_socket()(ext_ack=True, strict_check=True)
    except OSError as error:
        raise refusal("open a netlink socket", error) from error
    try:
        yield connection
    finally:
        connection.close()


def code(error: BaseException) -> int | None:
    """Return the errno of a failed netlink request, None when ``error`` is something else."""
    number = getattr(error, "code", None)
    if number is None and isinstance(error, OSError):
        number = error.errno
    return number if isinstance(number, int) else None
