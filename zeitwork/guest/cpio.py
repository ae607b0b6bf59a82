"""Uncompressed newc cpio archives, the form in which Linux takes an initramfs. The same entries give the same bytes."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

_MAX_SIZE = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Entry:
    """One member: a path without leading slash, its full mode (type bits included), contents, and a device number."""

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(path: str, mode: int = 0o755) -> Entry:
    """Return a directory."""
    return Entry(path, stat.S_IFDIR | mode)


def file(path: str, data: bytes, mode: int = 0o644) -> Entry:
    """Return a regular file."""
    return Entry(path, stat.S_IFREG | mode, data)


def character_device(path: str, major: int, minor: int, mode: int = 0o600) -> Entry:
    """Return a character device."""
    return Entry(path, stat.S_IFCHR | mode, device=(major, minor))


def write(entries: Iterable[Entry], target: BinaryIO) -> None:
    """Write an archive of ``entries``, all owned by root and without times. Raises `ValueError` on 4 GiB."""
    for inode, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], start=1):
        target.write(_header(inode, entry))
        target.write(entry.data)
        target.write(_padding(len(entry.data)))


def _header(inode: int, entry: Entry) -> bytes:
    if len(entry.data) > _MAX_SIZE:
        raise ValueError(f"{entry.path} is too large for a cpio archive")
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % value for value in fields) + name
    return head + _padding(len(head))


def _padding(length: int) -> bytes:
    return bytes(-length % 4)
