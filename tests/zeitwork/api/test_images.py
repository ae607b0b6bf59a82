from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from actors.images.pull import ARCHIVE
from tests.zeitwork.api.conftest import World
from tests.zeitwork.store.world import ready_node
from zeitwork.api import spool
from zeitwork.api.deps import fresh_id


def archive() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        entry = tarfile.TarInfo("manifest.json")
        entry.size = 2
        tar.addfile(entry, io.BytesIO(b"[]"))
    return content.getvalue()


def spooled(world: World) -> list[Path]:
    return sorted(world.deps.paths.spool.iterdir()) if world.deps.paths.spool.exists() else []


async def test_an_image_by_reference(world: World) -> None:
    made = await world.client.post("/api/v1/images", json={"reference": "ghcr.io/acme/web:1.4"})
    assert made.status_code == 201
    image = made.json()
    assert (image["source"], image["status"], image["progress"]) == ("ghcr.io/acme/web:1.4", "pending", 0)
    path = f"/api/v1/images/{image['id']}"
    assert made.headers["location"] == path
    claimed = await world.store.images.claim_pending(world.node.id)
    assert claimed is not None
    await world.store.images.progress(claimed.id, 40, "reading layer 1 of 2")
    half = (await world.client.get(path)).json()
    assert (half["status"], half["progress"], half["progress_message"]) == ("building", 40, "reading layer 1 of 2")
    await world.store.images.failed(claimed.id, "no such tag", "reference", "check the tag")
    failed = (await world.client.get(path)).json()
    assert (failed["status"], failed["error"], failed["error_field"]) == ("failed", "no such tag", "reference")
    history = (await world.client.get(f"{path}/history")).json()["items"]
    assert [change["status"] for change in history] == ["pending", "building", "failed"]
    gone = await world.client.delete(path)
    assert gone.status_code == 200
    assert gone.json()["deleted_at"]
    assert (await world.client.get("/api/v1/images")).json()["items"] == []


async def test_short_references_are_written_out(world: World) -> None:
    made = await world.client.post("/api/v1/images", json={"reference": "nginx"})
    assert made.json()["source"] == "docker.io/library/nginx:latest"


BAD_REFERENCES: list[tuple[dict[str, object], int, str]] = [
    ({}, 422, "reference"),
    ({"reference": ""}, 422, "reference"),
    ({"reference": "https://ghcr.io/a"}, 422, "reference"),
    ({"reference": "UPPER"}, 422, "reference"),
    ({"reference": "a:b:c"}, 422, "reference"),
    ({"reference": "archive:/etc/passwd"}, 422, "reference"),
    ({"reference": 5}, 422, "reference"),
    ({"reference": "x" * 600}, 422, "reference"),
    ({"image": "nginx"}, 422, "image"),
    ({"github_repo": "acme/web"}, 501, "github_repo"),
    ({"reference": "nginx", "dockerfile": "Dockerfile"}, 501, "dockerfile"),
]


async def test_bad_references(world: World) -> None:
    for body, status, field in BAD_REFERENCES:
        answer = await world.client.post("/api/v1/images", json=body)
        assert answer.status_code == status, answer.text
        assert answer.json()["field"] == field
        assert answer.json()["fix"]
        assert (await world.client.get("/api/v1/images")).json()["items"] == []


async def test_an_archive(world: World) -> None:
    content = archive()
    made = await world.client.post(
        "/api/v1/images",
        params={"name": "web.tar"},
        content=content,
        headers={"Content-Type": "application/x-tar"},
    )
    assert made.status_code == 201, made.text
    assert made.json()["source"] == "archive:web.tar"
    (file,) = spooled(world)
    assert file.read_bytes() == content
    assert file.stat().st_mode & 0o777 == 0o600
    # It is for this host alone, and what its images actor claims names the very file.
    assert await world.store.images.claim_pending((await ready_node(world.store)).id) is None
    claimed = await world.store.images.claim_pending(world.node.id)
    assert claimed is not None
    assert claimed.source == f"{ARCHIVE}{file}"
    assert str(claimed.id) == made.json()["id"]


COMPRESSED_ARCHIVES_ARE_KEPT_AS_THEY_ARE: list[str] = ["application/gzip", "application/zstd", "application/x-tar+zstd"]


async def test_compressed_archives_are_kept_as_they_are(world: World) -> None:
    for kind in COMPRESSED_ARCHIVES_ARE_KEPT_AS_THEY_ARE:
        made = await world.client.post("/api/v1/images", content=b"\x1f\x8b whatever", headers={"Content-Type": kind})
        assert made.status_code == 201
        assert made.json()["source"] == "archive:upload"
        assert spooled(world)[-1].read_bytes() == b"\x1f\x8b whatever"


async def test_a_large_archive_is_streamed(world: World) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(200):
            yield bytes([number]) * 65536

    made = await world.client.post("/api/v1/images", content=pieces(), headers={"Content-Type": "application/x-tar"})
    assert made.status_code == 201
    content = spooled(world)[0].read_bytes()
    assert len(content) == 200 * 65536
    assert content[::65536] == bytes(range(200))


@pytest.mark.parametrize("declared", [True, False])
async def test_too_large_an_archive_leaves_nothing(world: World, declared: bool) -> None:
    object.__setattr__(world.deps, "upload_limit", 100_000)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 10_000

    answer = await world.client.post(
        "/api/v1/images",
        content=b"x" * 200_000 if declared else pieces(),
        headers={"Content-Type": "application/x-tar"},
    )
    assert answer.status_code == 413
    assert "100000" in answer.json()["detail"]
    assert spooled(world) == []
    assert (await world.client.get("/api/v1/images")).json()["items"] == []


async def test_an_upload_that_breaks_off_leaves_nothing(world: World) -> None:
    port = int((world.listening.url or "").rpartition(":")[2])
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(
        b"POST /api/v1/images HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-tar\r\n"
        b"Content-Length: 1000000\r\n\r\n" + b"x" * 100_000
    )
    with trio.fail_after(90):
        while not spooled(world):  # noqa: ASYNC110 - the file is the event
            await trio.sleep(0.01)
        await stream.aclose()
        while spooled(world):  # noqa: ASYNC110
            await trio.sleep(0.01)
    assert (await world.client.get("/api/v1/images")).json()["items"] == []


async def test_a_full_disk_says_so_and_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool.os, "write", full)
    answer = await world.client.post("/api/v1/images", content=archive(), headers={"Content-Type": "application/x-tar"})
    assert answer.status_code == 507
    assert "No space left" in answer.json()["detail"]
    assert answer.json()["fix"]
    assert spooled(world) == []


BAD_UPLOADS: list[tuple[dict[str, str], dict[str, str], bytes, int, str | None]] = [
    ({}, {"Content-Type": "application/x-tar"}, b"", 422, None),
    ({}, {"Content-Type": "application/x-tar", "Content-Encoding": "gzip"}, b"x", 415, "Content-Encoding"),
    ({}, {"Content-Type": "application/octet-stream"}, b"x", 415, "Content-Type"),
    ({}, {"Content-Type": "multipart/form-data; boundary=x"}, b"x", 415, "Content-Type"),
    ({}, {}, b"x", 415, "Content-Type"),
    ({"name": "../../etc/passwd"}, {"Content-Type": "application/x-tar"}, b"x", 422, "name"),
    ({"name": "a\n"}, {"Content-Type": "application/x-tar"}, b"x", 422, "name"),
    ({"name": ""}, {"Content-Type": "application/x-tar"}, b"x", 422, "name"),
    ({"name": "ä" * 150}, {"Content-Type": "application/x-tar"}, b"x", 422, "name"),
    ({"name": "web"}, {"Content-Type": "application/json"}, b'{"reference":"nginx"}', 422, "name"),
    ({"nam": "web"}, {"Content-Type": "application/x-tar"}, b"x", 422, "nam"),
]


async def test_bad_uploads(world: World) -> None:
    for params, headers, content, status, field in BAD_UPLOADS:
        answer = await world.client.post("/api/v1/images", params=params, headers=headers, content=content)
        assert answer.status_code == status, answer.text
        assert answer.json()["field"] == field
        assert spooled(world) == []


async def test_a_repeated_upload_is_one_image(world: World) -> None:
    headers = {"Content-Type": "application/x-tar", "Idempotency-Key": "upload"}
    first = await world.client.post("/api/v1/images", content=archive(), headers=headers)
    again = await world.client.post("/api/v1/images", content=archive(), headers=headers)
    assert first.content == again.content
    assert len(spooled(world)) == 1
    other = await world.client.post("/api/v1/images", content=b"another", headers=headers)
    assert other.status_code == 422
    assert len(spooled(world)) == 1


async def test_an_image_in_use_is_not_deleted(world: World) -> None:
    made = await world.create()
    answer = await world.client.delete(f"/api/v1/images/{made['image_id']}")
    assert answer.status_code == 409
    image = (await world.client.get(f"/api/v1/images/{made['image_id']}")).json()
    assert image["used_by"] == 1
    assert image["config"]["cmd"] == ["/app"]


async def test_images_that_are_not_there(world: World) -> None:
    missing = fresh_id()
    for method, path in [("GET", ""), ("DELETE", ""), ("GET", "/history")]:
        answer = await world.client.request(method, f"/api/v1/images/{missing}{path}")
        assert answer.status_code == 404
