from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from zeitwork.api.guard import check, is_loopback_host


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8080", "localhost.:1", "127.0.0.1", "127.0.0.1:9999", "127.3.2.1", "[::1]", "[::1]:80"],
)
def test_loopback_names(host: str) -> None:
    assert is_loopback_host(host)
    assert check(Headers({"host": host}), unix=False) is None


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "evil.example#localhost",
        "192.168.0.1:8080",
        "0.0.0.0",
        "[::]",
        "[::1]evil",
        "[::1",
        "localhost:80:80",
        "localhost:x",
        "localhost ",
        "2130706433",
        "0x7f.1",
    ],
)
def test_other_names_are_refused_over_tcp_only(host: str) -> None:
    headers = Headers({"host": host} if host else {})
    refused = check(headers, unix=False)
    assert refused is not None
    assert (refused.status, refused.field) == (421, "Host")
    assert check(headers, unix=True) is None


@pytest.mark.parametrize("unix", [False, True])
def test_an_origin_must_be_our_own(unix: bool) -> None:
    def asked(origin: str) -> int:
        refused = check(Headers({"host": "localhost:8080", "origin": origin}), unix=unix)
        return refused.status if refused else 200

    assert asked("http://localhost:8080") == 200
    assert asked("http://LOCALHOST:8080") == 200
    for other in ("http://localhost", "http://localhost:8081", "http://evil.example", "null", "", "file://"):
        assert asked(other) == 403
