"""Where the guest kernel comes from and what is made of it. apt is a stand-in here; test_boot.py uses the real one."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import struct
import subprocess
from pathlib import Path

import lz4.block
import pytest
import zstandard

from actors.model.errors import Failed, InvalidInput, Problem, Unavailable
from actors.model.paths import HostPaths
from zeitwork.guest import packages
from zeitwork.guest.decompress import DecompressionError, decompress
from zeitwork.guest.kernel import fetch_kernel, load_guest
from zeitwork.guest.vmlinux import NotAKernel, extract

ELF = (
    b"\x7fELF\x02\x01\x01"
    + bytes(9)
    + struct.pack("<HH", 2, 62)
    + bytes(100)
    + b"Linux version 9.9.9-test (gcc) "
    + bytes(64)
)


def lz4_legacy(data: bytes) -> bytes:
    blocks = [lz4.block.compress(data[at : at + (8 << 20)], store_size=False) for at in range(0, len(data), 8 << 20)]
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(block)) + block for block in blocks)


PACKERS = {
    "none": bytes,
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zstd": zstandard.compress,
    "lz4": lz4_legacy,
}


def bzimage(payload: bytes, version: int = 0x20F) -> bytes:
    payload += struct.pack("<I", len(ELF))  # the kernel's build appends the unpacked size
    head = bytearray(1024)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, version)
    struct.pack_into("<II", head, 0x248, 16, len(payload))
    return bytes(head) + bytes(16) + payload + b"trailing bytes"


@pytest.fixture
def paths(tmp_path: Path) -> HostPaths:
    return HostPaths(tmp_path / "data", tmp_path / "run")


@pytest.mark.parametrize("packer", PACKERS)
def test_every_compression_of_a_bzimage_is_unpacked(packer: str) -> None:
    assert extract(bzimage(PACKERS[packer](ELF)))[: len(ELF)] == ELF


ARM = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, 183) + bytes(64)
NO_KERNELS = {
    "empty": b"",
    "another program": b"MZ" + bytes(2000),
    "unknown compression": bzimage(b"junk"),
    "no ELF inside": bzimage(gzip.compress(b"not ELF")),
    "old boot protocol": bzimage(b"", 0x207),
    "cut short": bzimage(gzip.compress(ELF))[:1100],
    "another machine": ARM,
}


@pytest.mark.parametrize("image", NO_KERNELS.values(), ids=NO_KERNELS)
def test_what_is_no_kernel_is_refused(image: bytes) -> None:
    with pytest.raises(NotAKernel):
        extract(image)


@pytest.mark.parametrize("packer", [name for name in PACKERS if name != "none"])
def test_decompression_is_bounded_and_notices_damage(packer: str) -> None:
    bomb = PACKERS[packer](bytes(3_000_000))
    with pytest.raises(DecompressionError, match="more than"):
        decompress(bomb, 1_000_000)
    assert len(decompress(bomb, 3_000_000)) == 3_000_000
    damaged = bomb[: len(bomb) // 2]
    with pytest.raises(DecompressionError):
        if len(decompress(damaged, 4_000_000)) < 3_000_000:
            raise DecompressionError("short")


def test_large_lz4_streams_have_many_blocks() -> None:
    data = bytes(range(256)) * (20 << 12)
    assert decompress(lz4_legacy(data), 64 << 20) == data


def test_without_a_kernel_the_way_out_is_named(paths: HostPaths) -> None:
    with pytest.raises(Unavailable, match="zeitwork setup"):
        load_guest(paths)


def test_a_kernel_given_by_the_user(paths: HostPaths, tmp_path: Path) -> None:
    image = tmp_path / "vmlinuz"
    image.write_bytes(bzimage(gzip.compress(ELF)))
    guest = load_guest(paths, kernel=image)
    assert guest.vmlinux.read_bytes() == ELF
    assert (guest.version, guest.has_modules, guest.package) == ("9.9.9-test", False, "")
    assert guest.initrd.read_bytes().startswith(b"070701")
    assert load_guest(paths, kernel=image) == guest


def test_an_elf_kernel_and_an_initrd_are_used_where_they_are(paths: HostPaths, tmp_path: Path) -> None:
    kernel, initrd = tmp_path / "vmlinux", tmp_path / "initrd"
    kernel.write_bytes(ELF)
    initrd.write_bytes(b"070701")
    guest = load_guest(paths, kernel=kernel, initrd=initrd)
    assert (guest.vmlinux, guest.initrd) == (kernel, initrd)


@pytest.mark.parametrize("field", ["kernel", "initrd"])
def test_a_path_that_is_no_file_is_refused_with_its_field(paths: HostPaths, tmp_path: Path, field: str) -> None:
    (tmp_path / "vmlinux").write_bytes(ELF)
    given = {"kernel": tmp_path / "vmlinux", field: tmp_path / "missing"}
    with pytest.raises(InvalidInput) as raised:
        load_guest(paths, **given)
    assert raised.value.field == field


def test_a_file_that_is_no_kernel_is_refused_with_its_field(paths: HostPaths, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InvalidInput) as raised:
        load_guest(paths, kernel=tmp_path / "text")
    assert raised.value.field == "kernel"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"package": "x"}'])
def test_a_damaged_manifest_says_setup(paths: HostPaths, text: str) -> None:
    paths.guest.mkdir(parents=True)
    (paths.guest / "manifest.json").write_text(text)
    with pytest.raises(Unavailable, match="zeitwork setup"):
        load_guest(paths)


class Archive:
    """A stand-in for apt-get, apt-cache and dpkg-deb: programs that come first in PATH."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "bin").mkdir()
        self.checksum = ""
        monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin")
        self.program("dpkg-deb", 'tar -xf "$2" -C "$3"')

    def program(self, name: str, body: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def offer(self, version: str, release: str, *, kernel: bytes | None = None) -> None:
        tree = self.folder / f"tree-{release}"
        (tree / "boot").mkdir(parents=True)
        (tree / f"lib/modules/{release}/kernel").mkdir(parents=True)
        if kernel is not None:
            (tree / f"boot/vmlinuz-{release}").write_bytes(kernel)
        archive = self.folder / f"{release}.deb"
        subprocess.run(["tar", "-cf", archive, "-C", tree, "."], check=True, timeout=30)
        name = f"linux-image-{release}"
        checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
        self.program(
            "apt-cache",
            f"""case "$2 $3 $4" in
"depends --important linux-image-cloud-amd64") printf 'linux-image-cloud-amd64\\n  Depends: {name}\\n';;
"depends --important {name}") printf '{name}\\n  Depends: kmod\\n |Depends: linux-base\\n';;
"policy {name} ") printf '{name}:\\n  Installed: (none)\\n  Candidate: {version}\\n';;
"show {name}={version} ") printf 'Package: {name}\\nSize: 12345\\nSHA256: {checksum}\\n';;
*) echo "E: No packages found" >&2; exit 100;;
esac""",
        )
        self.program(
            "apt-get",
            f"""case " $* " in *" APT::Get::AllowUnauthenticated=false "*) ;; *) exit 9;; esac
case " $* " in *" download {name}={version} "*) cp {archive} ./{name}_amd64.deb;; *) exit 8;; esac""",
        )


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    return Archive(tmp_path / "apt", monkeypatch)


def test_the_newest_kernel_is_fetched_once_and_replaced_when_newer(archive: Archive, paths: HostPaths) -> None:
    archive.offer("6.1.1-1", "6.1.0-1-cloud-amd64", kernel=bzimage(PACKERS["lz4"](ELF)))
    steps: list[str] = []
    guest = fetch_kernel(paths.guest, steps.append)
    assert guest.vmlinux.read_bytes() == ELF
    assert (guest.version, guest.package, guest.has_modules) == (
        "6.1.0-1-cloud-amd64",
        "linux-image-6.1.0-1-cloud-amd64",
        True,
    )
    assert load_guest(paths) == guest
    assert any("downloading" in step for step in steps)
    manifest = json.loads((paths.guest / "manifest.json").read_text())
    assert manifest["version"] == "6.1.1-1"

    archive.program("apt-get", "exit 1")
    assert fetch_kernel(paths.guest) == guest

    archive.offer("6.1.2-1", "6.1.0-2-cloud-amd64", kernel=bzimage(ELF))
    newer = fetch_kernel(paths.guest)
    assert newer.version == "6.1.0-2-cloud-amd64"
    assert load_guest(paths) == newer
    assert guest.vmlinux.is_file(), "a running host may still start guests with the one before"

    archive.offer("6.1.3-1", "6.1.0-3-cloud-amd64", kernel=bzimage(ELF))
    fetch_kernel(paths.guest)
    assert not guest.vmlinux.exists()
    assert newer.vmlinux.is_file()
    assert not list(paths.guest.glob(".*"))


@pytest.mark.parametrize("part", ["manifest.json", "linux-image-6.1.0-1-cloud-amd64_1-1/vmlinux"])
def test_what_is_damaged_is_fetched_again(archive: Archive, paths: HostPaths, part: str) -> None:
    archive.offer("1-1", "6.1.0-1-cloud-amd64", kernel=bzimage(gzip.compress(ELF)))
    guest = fetch_kernel(paths.guest)
    if part == "manifest.json":
        (paths.guest / part).write_text("{")
    else:
        (paths.guest / part).unlink()
    with pytest.raises(Unavailable, match="zeitwork setup"):
        load_guest(paths)
    assert fetch_kernel(paths.guest) == guest
    assert load_guest(paths) == guest
    assert guest.vmlinux.read_bytes() == ELF


def test_a_file_that_is_not_what_the_index_says_is_refused(archive: Archive, paths: HostPaths) -> None:
    archive.offer("1-1", "6.1.0-1-cloud-amd64", kernel=bzimage(ELF))
    archive.program("apt-get", "echo tampered >package.deb")
    with pytest.raises(Failed, match="SHA-256"):
        fetch_kernel(paths.guest)
    assert list(paths.guest.iterdir()) == []


@pytest.mark.parametrize("kernel", [None, b"not a kernel"])
def test_a_package_without_a_usable_kernel_leaves_nothing(
    archive: Archive, paths: HostPaths, kernel: bytes | None
) -> None:
    archive.offer("1-1", "6.1.0-1-cloud-amd64", kernel=kernel)
    with pytest.raises(Failed):
        fetch_kernel(paths.guest)
    assert list(paths.guest.iterdir()) == []


def test_apt_says_why_in_its_own_words(archive: Archive, paths: HostPaths) -> None:
    archive.offer("1-1", "6.1.0-1-cloud-amd64", kernel=bzimage(ELF))
    archive.program("apt-get", 'echo "W: noise" >&2; echo "E: Failed to fetch http://x 404" >&2; exit 100')
    with pytest.raises(Unavailable, match="Failed to fetch http://x 404") as raised:
        fetch_kernel(paths.guest)
    assert "apt-get update" in (raised.value.fix or "")


def test_a_machine_that_knows_no_kernel_package(archive: Archive, paths: HostPaths) -> None:
    archive.program("apt-cache", 'echo "E: No packages found" >&2; exit 100')
    with pytest.raises(Unavailable, match="--kernel"):
        fetch_kernel(paths.guest)


def test_a_machine_without_apt(paths: HostPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Problem, match="no apt-cache") as raised:
        fetch_kernel(paths.guest)
    assert "--kernel" in (raised.value.fix or "")


def test_modules_in_a_package_of_their_own_are_found(archive: Archive) -> None:
    archive.program(
        "apt-cache",
        """case "$2 $3 $4" in
"depends --important linux-image-virtual") printf '  Depends: linux-image-6.8.0-1-generic\\n';;
"depends --important linux-image-6.8.0-1-generic") echo '  Depends: linux-modules-6.8.0-1-generic';;
"policy"*) printf '  Candidate: 6.8.0-1.1\\n';;
"show"*) printf 'Size: 1\\nSHA256: %064d\\n' 0;;
*) exit 100;;
esac""",
    )
    assert [package.name for package in packages.newest_kernel()] == [
        "linux-image-6.8.0-1-generic",
        "linux-modules-6.8.0-1-generic",
    ]
