"""The bundled hello app's archive."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from actors.model.errors import Unavailable
from zeitwork.guest.hello import BUSYBOX_PATHS, PORT, build_hello

pytestmark = pytest.mark.skipif(not BUSYBOX_PATHS[0].exists(), reason="busybox-static is not installed")


def test_it_is_a_valid_layout_with_the_same_digest_each_time(tmp_path: Path) -> None:
    digest = build_hello(tmp_path / "a.tar")
    assert build_hello(tmp_path / "b.tar") == digest
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as archive:
        blobs = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    for name, blob in blobs.items():
        if name.startswith("blobs/sha256/"):
            assert hashlib.sha256(blob).hexdigest() == name.rpartition("/")[2]
    index = json.loads(blobs["index.json"])
    assert [item["digest"] for item in index["manifests"]] == [digest]

    manifest = json.loads(blobs["blobs/sha256/" + digest[7:]])
    config = json.loads(blobs["blobs/sha256/" + manifest["config"]["digest"][7:]])
    assert config["config"]["ExposedPorts"] == {f"{PORT}/tcp": {}}
    assert config["config"]["User"] == "hello"
    layer = gzip.decompress(blobs["blobs/sha256/" + manifest["layers"][0]["digest"][7:]])
    assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(layer).hexdigest()]
    with tarfile.open(fileobj=io.BytesIO(layer)) as files:
        assert files.getmember("www").uid == 1000
        assert files.getmember("bin/busybox").mode == 0o755
        assert all(member.mtime == 0 for member in files)


@pytest.mark.parametrize("content", [None, b"#!/bin/sh\n", Path("/bin/ls").read_bytes()])
def test_only_a_static_busybox_will_do(tmp_path: Path, content: bytes | None) -> None:
    busybox = tmp_path / "busybox"
    if content is not None:
        busybox.write_bytes(content)
    with pytest.raises(Unavailable, match="busybox-static"):
        build_hello(tmp_path / "hello.tar", busybox)
