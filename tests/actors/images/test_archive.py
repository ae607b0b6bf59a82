from __future__ import annotations

import json
import os
import random
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.images.archive import LocalImage, open_archive
from actors.images.layers import merge, stream
from actors.images.limits import Limits
from actors.images.problems import ImageRefused
from tests.actors.images import craft
from tests.actors.images.craft import (
    Entry,
    Image,
    archive,
    directory,
    docker_save,
    file,
    hardlink,
    layout,
    symlink,
    tar,
)

IMAGE = Image([tar(file("hello", b"hi", mode=0o755)), tar(file("more", b"more"))], ["gzip", "zstd"])


def opened(path: Path, data: bytes, limits: Limits | None = None) -> LocalImage:
    target = path / "upload"
    target.write_bytes(data)
    work = path / "work"
    work.mkdir(exist_ok=True)
    for old in work.iterdir():
        old.unlink()
    return open_archive(target, work, lambda _: None, limits or Limits())


def contents(image: LocalImage) -> dict[str, bytes]:
    tree = merge(image.layers, lambda _: None)
    found = craft.read_tar(b"".join(stream(image.layers, tree, lambda _: None)))
    return {name: item.data for name, item in found.items() if name}


EXPECTED = {"hello": b"hi", "more": b"more"}


@pytest.mark.parametrize("how", ["plain", "gzip", "zstd"])
@pytest.mark.parametrize("form", ["docker", "layout", "both"])
def test_reads_what_tools_write(tmp_path: Path, form: str, how: str) -> None:
    files = {"docker": docker_save(IMAGE), "layout": layout(IMAGE), "both": layout(IMAGE) | docker_save(IMAGE)}[form]
    image = opened(tmp_path, craft.pressed(archive(files), how))
    assert image.config.cmd == ("/hello",)
    assert image.digest == craft.digest(IMAGE.config if form == "docker" else IMAGE.manifest)
    assert contents(image) == EXPECTED


def test_reads_a_directory_packed_by_hand(tmp_path: Path) -> None:
    craft.write_layout(tmp_path / "layout", IMAGE)
    done = subprocess.run(
        ["tar", "-C", str(tmp_path / "layout"), "-c", "."], capture_output=True, check=True, timeout=90
    )
    assert contents(opened(tmp_path, done.stdout)) == EXPECTED


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_reads_what_skopeo_writes(tmp_path: Path, kind: str) -> None:
    source = craft.write_layout(tmp_path / "layout", Image(IMAGE.layers))  # this skopeo does not convert zstd
    target = tmp_path / "skopeo.tar"
    name = f"{kind}:{target}:app:latest" if kind == "docker-archive" else f"{kind}:{target}"
    subprocess.run(
        ["skopeo", "copy", "--insecure-policy", f"oci:{source}", name], check=True, timeout=120, capture_output=True
    )
    assert contents(opened(tmp_path, target.read_bytes())) == EXPECTED


def test_follows_links_between_equal_layers_as_old_docker_wrote_them(tmp_path: Path) -> None:
    layer = tar(file("hello", b"hi"))
    config = Image([layer, layer]).config
    manifest = [{"Config": "c.json", "RepoTags": None, "Layers": ["1/layer.tar", "2/layer.tar"]}]
    data = tar(
        directory("1"),
        file("1/layer.tar", layer),
        directory("2"),
        symlink("2/layer.tar", "../1/layer.tar"),
        hardlink("copy.json", "1/layer.tar"),
        file("c.json", config),
        file("manifest.json", json.dumps(manifest).encode()),
    )
    assert contents(opened(tmp_path, data)) == {"hello": b"hi"}


def test_chooses_our_platform_in_an_index(tmp_path: Path) -> None:
    arm = Image([tar(file("arm"))], architecture="arm64")
    assert opened(tmp_path, archive(layout(arm, IMAGE))).digest == craft.digest(IMAGE.manifest)
    with pytest.raises(ImageRefused, match="arm64"):
        opened(tmp_path, archive(layout(arm)))
    with pytest.raises(ImageRefused, match="arm64"):
        opened(tmp_path, archive(layout(arm, platforms=False)))
    windows = Image([tar(file("Files"))], os="windows")
    with pytest.raises(ImageRefused, match="windows"):
        opened(tmp_path, archive(docker_save(windows)))


def test_an_index_whose_image_was_not_saved_says_so(tmp_path: Path) -> None:
    files = {name: data for name, data in layout(IMAGE).items() if data != IMAGE.manifest}
    with pytest.raises(ImageRefused, match="does not hold it") as caught:
        opened(tmp_path, archive(files))
    assert "--platform" in str(caught.value.fix)


def test_several_images_are_refused_with_the_way_out(tmp_path: Path) -> None:
    other = Image([tar(file("other"))])
    with pytest.raises(ImageRefused, match="2 images") as caught:
        opened(tmp_path, archive(layout(IMAGE, other)))
    assert "docker save" in str(caught.value.fix)
    files = docker_save(IMAGE)
    files["manifest.json"] = json.dumps(json.loads(files["manifest.json"]) * 2).encode()
    with pytest.raises(ImageRefused, match="2 images"):
        opened(tmp_path, archive(files))


GOOD = [file(name, data) for name, data in docker_save(IMAGE).items()]
HOSTILE: dict[str, list[Entry]] = {
    "absolute path": [file("/etc/cron.d/x", b"x")],
    "climbing path": [file("../../etc/cron.d/x", b"x")],
    "link to an absolute path": [symlink("x", "/etc/passwd")],
    "link out": [symlink("a/x", "../../etc/passwd")],
    "hard link out": [hardlink("x", "../etc/passwd")],
    "absolute hard link": [hardlink("x", "/etc/passwd")],
    "character device": [craft.device("x")],
    "block device": [craft.device("x", tarfile.BLKTYPE)],
    "fifo": [craft.fifo("x")],
    "manifest twice": [file("manifest.json", b"[]")],
    "manifest twice by another spelling": [file("./manifest.json", b"[]")],
    "link over a file": [symlink("manifest.json", "x")],
    "sparse file": [file("a", pax_headers={"GNU.sparse.map": "0,1"})],
    "huge extended header": [file("a", pax_headers={"comment": "x" * 1_100_000})],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_are_refused(tmp_path: Path, case: str) -> None:
    with pytest.raises(ImageRefused) as caught:
        opened(tmp_path, tar(*GOOD, *HOSTILE[case]))
    assert caught.value.fix


def changed(**members: object) -> dict[str, bytes]:
    files = docker_save(IMAGE)
    (manifest,) = json.loads(files["manifest.json"])
    files["manifest.json"] = json.dumps([manifest | members]).encode()
    return files


BROKEN: dict[str, dict[str, bytes]] = {
    "nothing in it": {},
    "something else": {"readme": b"hi"},
    "manifest is no JSON": docker_save(IMAGE) | {"manifest.json": b"{"},
    "manifest is no list": docker_save(IMAGE) | {"manifest.json": b"{}"},
    "manifest is deep": docker_save(IMAGE) | {"manifest.json": b"[" * 200_000},
    "no image": docker_save(IMAGE) | {"manifest.json": b"[]"},
    "configuration missing": changed(Config="missing.json"),
    "configuration outside": changed(Config="../../../etc/passwd"),
    "configuration not named": changed(Config=7),
    "layer missing": changed(Layers=["a", "b"]),
    "layer outside": changed(Layers=["/etc/passwd", "../../etc/passwd"]),
    "a layer too few": changed(Layers=docker_save(IMAGE) and [next(iter(docker_save(IMAGE)))]),
    "configuration changed": {
        name: data.replace(b"/hello", b"/other") if b"diff_ids" in data else data
        for name, data in docker_save(IMAGE).items()
    },
    "blob changed": {
        name: data.replace(b"/hello", b"/other") if b"diff_ids" in data else data
        for name, data in layout(IMAGE).items()
    },
    "blob missing": {
        name: data for name, data in layout(IMAGE).items() if name != f"blobs/sha256/{craft.digest(IMAGE.config)[7:]}"
    },
    "blob cut": {name: data[:-1] if data[:2] == b"\x1f\x8b" else data for name, data in layout(IMAGE).items()},
    "index is a manifest": layout(IMAGE) | {"index.json": IMAGE.manifest},
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_archives_are_refused(tmp_path: Path, case: str) -> None:
    with pytest.raises(ImageRefused) as caught:
        contents(opened(tmp_path, archive(BROKEN[case])))
    assert caught.value.fix


@pytest.mark.parametrize("how", ["plain", "gzip", "zstd"])
def test_truncated_archives_are_refused(tmp_path: Path, how: str) -> None:
    files = {"noise": random.Random(1).randbytes(100_000), **layout(IMAGE)}
    whole = craft.pressed(archive(files).rstrip(b"\0") + bytes(1024), how)
    for cut in (0, 1, 511, 512, 50_000, len(whole) - 1100):
        with pytest.raises(ImageRefused):
            opened(tmp_path, whole[:cut])


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_bombs_are_refused(tmp_path: Path, how: str) -> None:
    bomb = craft.pressed(archive({"zeros": bytes(30_000_000), **docker_save(IMAGE)}), how)
    with pytest.raises(ImageRefused, match="bomb"):
        opened(tmp_path, bomb, Limits(ratio_floor=1_000_000))
    with pytest.raises(ImageRefused, match="more than 9000000 bytes"):
        opened(tmp_path, bomb, Limits(unpacked=9_000_000))


def test_too_many_members_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageRefused, match="more than 5 members"):
        opened(tmp_path, tar(*(file(f"f{number}") for number in range(6))), Limits(archive_members=5))


@pytest.mark.parametrize("magic", [b"BZh9", b"\xfd7zXZ\0", b"PK\x03\x04", b"\x7fELF", b"text", os.urandom(2000)])
def test_other_files_are_refused(tmp_path: Path, magic: bytes) -> None:
    with pytest.raises(ImageRefused) as caught:
        opened(tmp_path, magic + bytes(600))
    assert caught.value.fix


@settings(max_examples=200, deadline=None)
@given(st.integers(0), st.binary(min_size=1, max_size=40), st.sampled_from(["plain", "gzip", "zstd"]))
def test_damage_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, at: int, noise: bytes, how: str
) -> None:
    whole = bytearray(craft.pressed(archive(layout(IMAGE)), how))
    at %= len(whole)
    whole[at : at + len(noise)] = noise
    path = tmp_path_factory.getbasetemp() / "damage"
    path.mkdir(exist_ok=True)
    try:
        found = contents(opened(path, bytes(whole)))
    except ImageRefused:
        return
    assert found == EXPECTED
