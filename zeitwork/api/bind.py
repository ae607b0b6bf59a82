"""Where the control endpoint listens: a loopback TCP port and a unix socket, opened so that their errors help."""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from actors.model.errors import InvalidInput, Problem

#: Members of this group may use the unix socket; without the group only root may.
SOCKET_GROUP = "zeitwork"
SOCKET_MODE = 0o660
_BACKLOG = 128
_PATH_LIMIT = 107  # bytes of sun_path without its closing zero


@dataclass(frozen=True, slots=True)
class SocketFile:
    """A unix socket that we made; ``inode`` tells it from a later one at the same path."""

    path: Path
    inode: int

    def remove(self) -> None:
        """Remove the file if it is still ours."""
        try:
            if self.path.lstat().st_ino == self.inode:
                self.path.unlink()
        except FileNotFoundError:
            pass


def validate_http_bind(text: str, *, field: str = "http") -> tuple[str, int]:
    """Return host and port of ``HOST:PORT`` (``[::1]:8080`` for IPv6); port 0 picks a free one.

    Raises `InvalidInput` when it is not of that form or the host is not loopback: whoever reaches the endpoint
    controls the host, and it knows no users yet.
    """
    host, separator, port_text = text.strip().rpartition(":")
    example = "write for example --http 127.0.0.1:8080"
    if not separator or not port_text.isascii() or not port_text.isdigit() or int(port_text) > 65535:
        raise InvalidInput(f"--http {text!r} is not HOST:PORT", field=field, fix=example)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise InvalidInput(f"--http {text!r}: an IPv6 address needs brackets", field=field, fix="write [::1]:8080")
    if host == "localhost":
        host = "127.0.0.1"
    try:
        address = ip_address(host)
    except ValueError:
        raise InvalidInput(f"--http {text!r}: {host!r} is not an address", field=field, fix=example) from None
    if not address.is_loopback:
        raise InvalidInput(
            f"--http {text!r} is not a loopback address, and the endpoint has no users or tokens",
            field=field,
            fix="bind 127.0.0.1 and reach it from elsewhere through ssh -L 8080:127.0.0.1:8080",
        )
    return host, int(port_text)


def open_tcp(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises `Problem` that names ``--http`` when the port can't be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _tcp_problem(host, port, error) from error
    listener.setblocking(False)
    return listener


def open_unix(path: Path) -> tuple[socket.socket, SocketFile]:
    """Return a listening unix socket at ``path``, mode 0660 and of group ``zeitwork`` if that exists.

    A socket file that nobody listens on is replaced. Raises `Problem` when somebody does, when something other than
    a socket is there, or when the path can't be used.
    """
    if len(os.fsencode(path)) > _PATH_LIMIT:
        raise InvalidInput(
            f"--socket {path} is longer than {_PATH_LIMIT} bytes", field="socket", fix="choose a shorter path"
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        listener.bind(os.fspath(path))
        # Nobody can connect before listen(), so there is no moment in which the mode is too open.
        path.chmod(SOCKET_MODE)
        _give_to_group(path)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise Problem(
            f"--socket {path}: {error.strerror or error}",
            field="socket",
            fix="choose another path with --socket PATH",
            code="socket-unusable",
        ) from error
    except Problem:
        listener.close()
        raise
    listener.setblocking(False)
    return listener, SocketFile(path, path.lstat().st_ino)


def _tcp_problem(host: str, port: int, error: OSError) -> Problem:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return Problem(
            f"--http {where} is already in use by another program",
            field="http",
            fix=f"choose another with --http HOST:PORT, or see who has it: ss -ltnp 'sport = :{port}'",
            code="port-taken",
        )
    return Problem(
        f"--http {where}: {error.strerror or error}",
        field="http",
        fix="choose another with --http HOST:PORT",
        code="port-unusable",
    )


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Problem(
            f"--socket {path} is there and is not a socket",
            field="socket",
            fix="move it away, or choose another path with --socket PATH",
            code="socket-unusable",
        )
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.setblocking(False)  # a listener whose backlog is full answers EAGAIN: alive too
    try:
        probe.connect(os.fspath(path))
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
        return
    except BlockingIOError:
        pass
    finally:
        probe.close()
    raise Problem(
        f"--socket {path} is in use by a running process",
        field="socket",
        fix="stop the other zeitwork first, or choose another path with --socket PATH",
        code="socket-taken",
    )


def _give_to_group(path: Path) -> None:
    try:
        group = grp.getgrnam(SOCKET_GROUP).gr_gid
    except KeyError:
        return
    if os.geteuid() == 0 or group in os.getgroups():
        os.chown(path, -1, group)
