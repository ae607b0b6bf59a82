from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.images.problems import BadReference
from actors.images.reference import is_loopback, parse_reference

SHA = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("  nginx\n", "docker.io/library/nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27"),
        ("owner/app", "docker.io/owner/app:latest"),
        ("docker.io/nginx", "docker.io/library/nginx:latest"),
        ("index.docker.io/owner/app:v1", "docker.io/owner/app:v1"),
        ("ghcr.io/owner/app", "ghcr.io/owner/app:latest"),
        ("GHCR.io/owner/app", "ghcr.io/owner/app:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:x", "localhost:5000/app:x"),
        ("registry:5000/app", "registry:5000/app:latest"),
        ("127.0.0.1:5000/a/b/c:t", "127.0.0.1:5000/a/b/c:t"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        (f"app@{SHA}", f"docker.io/library/app@{SHA}"),
        (f"reg.example:444/repo/app:tag@{SHA}", f"reg.example:444/repo/app:tag@{SHA}"),
        ("my__app/a-b.c--d", "docker.io/my__app/a-b.c--d:latest"),
    ],
)
def test_reads_as_docker_does(text: str, full: str) -> None:
    assert str(parse_reference(text)) == full


@pytest.mark.parametrize(
    "text",
    [
        "", "   ", None, 7, "https://ghcr.io/a/b", "docker://nginx", "Nginx", "ghcr.io/Owner/App", "nginx:",
        "nginx:a b", "nginx:.x", "nginx:" + "x" * 129,
        "nginx@sha256:12", "nginx@md5:" + "0" * 32, f"nginx@{SHA.upper()}",
        "/nginx", "nginx/", "a//b", "ghcr.io/", "ghcr.io:99999/a", "ghcr.io:0/a", "-a", "a-", "a..b/c", "../../etc",
        "[zz]:5000/app", "[::1:5000/app", "a" * 256, "a" * 600, "nginx latest", "ex ample.com/a", "a/b\0c", "näme",
    ],
)  # fmt: skip
def test_refuses_with_a_fix_and_the_field(text: object) -> None:
    with pytest.raises(BadReference) as caught:
        parse_reference(text)
    assert caught.value.field == "reference"
    assert caught.value.fix
    assert caught.value.status == 422


@given(st.text(max_size=80) | st.from_regex(r"[a-z0-9./:@\[\]-]{0,60}", fullmatch=True))
def test_any_text_is_read_or_refused_and_reads_back_the_same(text: str) -> None:
    try:
        reference = parse_reference(text)
    except BadReference:
        return
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True), ("LOCALHOST:80", True), ("127.0.0.1", True), ("127.8.9.1:5000", True), ("[::1]:5", True),
        ("localhost.example.com", False), ("128.0.0.1", False), ("10.0.0.1:5000", False), ("[::2]:5", False),
        ("127.0.0.1.example.com", False), ("0.0.0.0:5000", False), ("registry", False),
    ],
)  # fmt: skip
def test_plain_http_is_for_this_machine_only(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
    assert is_loopback("::1") and not is_loopback("::2")  # as URLs give hosts, without brackets
    if ":" in host and "/" not in host:
        assert parse_reference(f"{host}/app").scheme == ("http" if expected else "https")
