"""The archive that the kernel unpacks: its format, and which modules are in it in which order."""

from __future__ import annotations

import gzip
import io
import lzma
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
import zstandard

from zeitwork.guest import cpio, initramfs
from zeitwork.guest.modules import load_order, modinfo

pytestmark = pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")


def module(**information: str) -> bytes:
    """A 64-bit ELF file with nothing but .modinfo."""
    info = b"".join(f"{key}={value}\0".encode() for key, value in information.items())
    names = b"\0.modinfo\0.shstrtab\0"
    sections = [(0, 0, 0), (1, 64, len(info)), (10, 64 + len(info), len(names))]
    table = 64 + len(info) + len(names)
    head = (
        b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2)
    )
    body = b"".join(struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, at, size, 0, 0, 1, 0) for name, at, size in sections)
    return head + info + names + body


def plant(tree: Path, path: str, data: bytes) -> None:
    target = tree / "kernel" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


def listing(archive: bytes) -> dict[str, str]:
    result = subprocess.run(["cpio", "-tv", "--quiet"], input=archive, capture_output=True, check=True, timeout=30)
    return {line.split()[-1]: line for line in result.stdout.decode().splitlines()}


def extract(archive: bytes, path: str) -> bytes:
    command = ["cpio", "-i", "--quiet", "--to-stdout", path]
    return subprocess.run(command, input=archive, capture_output=True, check=True, timeout=30).stdout


def test_cpio_reads_what_we_write() -> None:
    target = io.BytesIO()
    cpio.write(
        [
            cpio.directory("a", 0o700),
            cpio.file("a/empty", b""),
            *(cpio.file(f"a/{size}", b"x" * size, 0o755) for size in range(1, 9)),
            cpio.character_device("a/console", 5, 1),
        ],
        target,
    )
    files = listing(target.getvalue())
    assert files["a"].startswith("drwx------")
    assert files["a/3"].startswith("-rwxr-xr-x")
    assert files["a/console"].startswith("crw-------")
    assert "5,   1" in files["a/console"]
    for size in range(1, 9):
        assert extract(target.getvalue(), f"a/{size}") == b"x" * size


def test_a_kernel_without_modules_gets_only_the_init() -> None:
    archive = initramfs.build(None)
    assert set(listing(archive)) == {"dev", "proc", "sys", "root", "lower", "upper", "dev/console", "init"}
    assert extract(archive, "init") == initramfs.init_binary()
    assert archive == initramfs.build(None)


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    plant(tmp_path, "drivers/virtio/virtio_pci.ko", module(depends="virtio,virtio-ring"))
    plant(tmp_path, "drivers/virtio/virtio.ko", module(depends="virtio_ring"))
    plant(tmp_path, "drivers/virtio/virtio_ring.ko", module(depends=""))
    plant(tmp_path, "fs/ext4/ext4.ko.zst", zstandard.compress(module(depends="jbd2", softdep="pre: crc32c")))
    plant(tmp_path, "fs/jbd2/jbd2.ko.gz", gzip.compress(module(depends="")))
    plant(tmp_path, "crypto/crc32c_generic.ko.xz", lzma.compress(module(depends="")))
    plant(tmp_path, "sound/unrelated.ko", module(depends=""))
    archive = initramfs.build(tmp_path)
    loaded = extract(archive, "modules.list").decode().splitlines()
    assert loaded == [
        f"/modules/{name}.ko" for name in ("virtio_ring", "virtio", "virtio_pci", "crc32c_generic", "jbd2", "ext4")
    ]
    assert extract(archive, "modules/ext4.ko") == module(depends="jbd2", softdep="pre: crc32c")
    assert archive == initramfs.build(tmp_path)


def test_soft_dependencies_and_cycles(tmp_path: Path) -> None:
    plant(tmp_path, "a.ko", module(softdep="pre: b missing post: d"))
    plant(tmp_path, "b.ko", module(softdep="pre: a"))
    plant(tmp_path, "d.ko", module(depends=""))
    assert [item.name for item in load_order(tmp_path, ("a",))] == ["b", "a"]


@pytest.mark.parametrize(
    "data", [b"", b"text", b"\x7fELF\x01\x01" + bytes(100), module()[:70], b"\x7fELF\x02\x01" + b"\xff" * 90]
)
def test_a_damaged_module_is_an_error(tmp_path: Path, data: bytes) -> None:
    plant(tmp_path, "virtio.ko", data)
    with pytest.raises(ValueError):
        load_order(tmp_path, ("virtio",))


def test_modinfo_keeps_every_value() -> None:
    assert modinfo(module(depends="a,b", license="GPL")) == {"depends": ["a,b"], "license": ["GPL"]}
