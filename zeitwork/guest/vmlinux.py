"""Takes the ELF kernel out of a bzImage: Firecracker boots nothing else, and QEMU starts it sooner."""

from __future__ import annotations

import struct

from zeitwork.guest.decompress import DecompressionError, decompress

#: A distribution's kernel is 40-80 MiB; a damaged or hostile file must not fill the memory.
LIMIT = 256 * 1024 * 1024

_ELF64 = b"\x7fELF\x02\x01"
_X86_64 = 62


class NotAKernel(ValueError):
    """The file is neither an x86_64 ELF kernel nor a bzImage that holds one."""


def extract(image: bytes) -> bytes:
    """Return the ELF kernel in ``image``, which is one already or a bzImage (boot protocol 2.08 or later).

    Raises `NotAKernel` saying what is wrong.
    """
    if image.startswith(_ELF64):
        return _checked(image)
    if image[0x202:0x206] != b"HdrS":
        raise NotAKernel("neither an ELF file nor a bzImage")
    try:
        setup_sectors, version = image[0x1F1] or 4, struct.unpack_from("<H", image, 0x206)[0]
        offset, length = struct.unpack_from("<II", image, 0x248)
    except struct.error as error:
        raise NotAKernel("a bzImage that is cut short") from error
    if version < 0x208:
        raise NotAKernel(f"a bzImage of boot protocol {version >> 8}.{version & 255:02}; 2.08 or later is needed")
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start : start + length]
    if len(payload) < length or not payload:
        raise NotAKernel("a bzImage that is cut short")
    if payload.startswith(_ELF64):
        return _checked(payload)
    try:
        return _checked(decompress(payload, LIMIT))
    except DecompressionError as error:
        raise NotAKernel(f"a bzImage whose kernel can't be unpacked: {error}") from error


def _checked(elf: bytes) -> bytes:
    if not elf.startswith(_ELF64) or len(elf) < 64 or struct.unpack_from("<H", elf, 18)[0] != _X86_64:
        raise NotAKernel("not a kernel for x86_64")
    return elf
