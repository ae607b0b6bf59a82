from __future__ import annotations

import grp
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from actors.model.errors import InvalidInput, Problem
from zeitwork.api.bind import SOCKET_GROUP, open_tcp, open_unix, validate_http_bind


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("127.8.9.10:0", ("127.8.9.10", 0)),
        ("localhost:1", ("127.0.0.1", 1)),
        ("[::1]:65535", ("::1", 65535)),
        (" 127.0.0.1:80 ", ("127.0.0.1", 80)),
    ],
)
def test_loopback_is_accepted(text: str, expected: tuple[str, int]) -> None:
    assert validate_http_bind(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0:8080",
        "[::]:8080",
        "192.168.1.4:80",
        "[2001:db8::1]:80",
        "example.com:80",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "127.0.0.1:http",
        "::1:8080",
        ":8080",
        "",
        "127.0.0.1:８０",
    ],
)
def test_anything_else_is_refused_by_the_flags_name(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        validate_http_bind(text)
    assert refused.value.field == "http"
    assert "--http" in str(refused.value)
    assert refused.value.fix


def test_a_taken_port_names_the_flag() -> None:
    with open_tcp("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(Problem) as refused:
            open_tcp("127.0.0.1", port)
    assert refused.value.code == "port-taken"
    assert refused.value.field == "http"
    assert f"127.0.0.1:{port}" in refused.value.detail
    assert "--http" in refused.value.detail


def test_an_address_that_this_machine_lacks_names_the_flag() -> None:
    with pytest.raises(Problem) as refused:
        open_tcp("192.0.2.1", 0)
    assert refused.value.code == "port-unusable"
    assert "--http" in refused.value.detail


@contextmanager
def unix_listener(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        yield listener


def test_the_socket_is_for_its_group_only_and_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "z.sock"
    listener, file = open_unix(path)
    with listener:
        status = path.stat()
        assert stat.S_IMODE(status.st_mode) == 0o660
        if any(group.gr_name == SOCKET_GROUP for group in grp.getgrall()):
            assert status.st_gid == grp.getgrnam(SOCKET_GROUP).gr_gid
    file.remove()
    assert not path.exists()
    file.remove()


def test_a_socket_file_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "z.sock"
    with unix_listener(path):
        pass
    assert path.exists()
    listener, _ = open_unix(path)
    listener.close()


def test_a_socket_that_somebody_listens_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "z.sock"
    with unix_listener(path):
        with pytest.raises(Problem) as refused:
            open_unix(path)
        assert refused.value.code == "socket-taken"
        assert "--socket" in refused.value.detail
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_what_is_not_a_socket_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "z.sock"
    path.write_text("precious")
    with pytest.raises(Problem) as refused:
        open_unix(path)
    assert refused.value.field == "socket"
    assert path.read_text() == "precious"


def test_a_later_processs_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "z.sock"
    listener, file = open_unix(path)
    listener.close()
    replacement = tmp_path / "other"
    with unix_listener(replacement):
        replacement.rename(path)
        file.remove()
        assert path.exists()


@pytest.mark.parametrize("name", ["missing/z.sock", "x" * 120])
def test_paths_that_cannot_be_used_name_the_flag(tmp_path: Path, name: str) -> None:
    with pytest.raises(Problem) as refused:
        open_unix(tmp_path / name)
    assert "--socket" in refused.value.detail
    assert refused.value.field == "socket"
