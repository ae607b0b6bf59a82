"""Which kernel modules a guest needs, in the order in which they must be loaded.

Dependencies are read from the modules themselves (their ``.modinfo`` section): a distribution's package that was only
unpacked has no ``modules.dep`` yet, because depmod runs when it is installed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from zeitwork.guest.decompress import decompress

#: What guests use. Those that a kernel has neither as a module nor built in are left out: init says what is missing.
WANTED = (
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "button",
    "evdev",
    "serio",
    "i8042",
    "atkbd",
    "crc32c_generic",
    "squashfs",
    "ext4",
    "overlay",
    "virtio_rng",
    "virtio_console",
    "vmw_vsock_virtio_transport",
)

_MODULE_LIMIT = 64 * 1024 * 1024
_SUFFIXES = (".ko", ".ko.gz", ".ko.xz", ".ko.zst")


@dataclass(frozen=True, slots=True)
class Module:
    """A loadable module: its name with underscores, the modules it needs first, and the bytes of its ELF file."""

    name: str
    needs: tuple[str, ...]
    data: bytes


def load_order(tree: Path | None, wanted: tuple[str, ...] = WANTED) -> list[Module]:
    """Return ``wanted`` and all that they need, each after what it needs. ``tree`` is a ``lib/modules/VERSION``.

    Empty when ``tree`` is None or holds no module. Names that are not there are taken to be built in. Raises
    `ValueError` on a damaged module.
    """
    files = _files(tree) if tree is not None else {}
    ordered: dict[str, Module] = {}
    pending: set[str] = set()

    def visit(name: str) -> None:
        if name in ordered or name in pending or name not in files:
            return
        pending.add(name)  # a cycle of soft dependencies must not loop
        module = _read(name, files[name])
        for needed in module.needs:
            visit(needed)
        ordered[name] = module

    for name in wanted:
        visit(normalize(name))
    return list(ordered.values())


def normalize(name: str) -> str:
    """Return a module's name as the kernel knows it: ``crc32c-intel`` is ``crc32c_intel``."""
    return name.replace("-", "_")


def modinfo(image: bytes) -> dict[str, list[str]]:
    """Return the ``.modinfo`` entries of a 64-bit little-endian ELF module. Raises `ValueError` when it is none."""
    entries: dict[str, list[str]] = {}
    for item in _section(image, b".modinfo").split(b"\0"):
        key, separator, value = item.decode("utf-8", "replace").partition("=")
        if separator:
            entries.setdefault(key, []).append(value)
    return entries


def _files(tree: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(tree.rglob("*.ko*")):
        suffix = next((suffix for suffix in _SUFFIXES if path.name.endswith(suffix)), None)
        if suffix and path.is_file():
            found.setdefault(normalize(path.name.removesuffix(suffix)), path)
    return found


def _read(name: str, path: Path) -> Module:
    data = path.read_bytes()
    if path.suffix != ".ko":
        data = decompress(data, _MODULE_LIMIT)
    information = modinfo(data)
    needs = [need for value in information.get("depends", []) for need in value.split(",") if need]
    for value in information.get("softdep", []):
        needs += _before(value)
    return Module(name, tuple(normalize(need) for need in needs), data)


def _before(softdep: str) -> list[str]:
    """Return the names after ``pre:``. Those after ``post:`` are not needed for the module itself to work."""
    names: list[str] = []
    keep = False
    for word in softdep.split():
        if word.endswith(":"):
            keep = word == "pre:"
        elif keep:
            names.append(word)
    return names


def _section(image: bytes, wanted: bytes) -> bytes:
    if len(image) < 64 or image[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    try:
        table, entry_size, count, names_index = (
            *struct.unpack_from("<Q", image, 40),
            *struct.unpack_from("<HHH", image, 58),
        )
        headers = [struct.unpack_from("<IIQQQQ", image, table + index * entry_size) for index in range(count)]
        names_at = headers[names_index][4]
    except (struct.error, IndexError, OverflowError) as error:
        raise ValueError("a damaged ELF file") from error
    for name, _kind, _flags, _address, offset, size in headers:
        at = names_at + name
        if image[at : image.find(b"\0", at)] == wanted:
            return image[offset : offset + size]
    return b""
