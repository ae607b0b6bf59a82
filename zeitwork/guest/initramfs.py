"""The guest's initramfs: our init and the kernel's modules that it loads, as an uncompressed cpio archive.

Uncompressed, because inflating it inside a guest without hardware acceleration takes longer than reading it.
"""

from __future__ import annotations

import io
from importlib import resources
from pathlib import Path

from zeitwork.guest import cpio
from zeitwork.guest.modules import load_order


def init_binary() -> bytes:
    """Return the prebuilt init (x86_64, static) that this package carries."""
    return resources.files("zeitwork.guest").joinpath("init.x86_64").read_bytes()


def build(modules: Path | None, init: bytes | None = None) -> bytes:
    """Return the archive for a kernel whose modules lie in ``modules`` (a ``lib/modules/VERSION``), or that has none.

    The same inputs give the same bytes. Raises `ValueError` on a damaged module.
    """
    entries = [
        # Mount points of init, and the console that the kernel opens for it before it runs.
        *(cpio.directory(name) for name in ("dev", "proc", "sys", "root", "lower", "upper")),
        cpio.character_device("dev/console", 5, 1),
        cpio.file("init", init_binary() if init is None else init, 0o755),
    ]
    loadable = load_order(modules)
    if loadable:
        paths = [f"modules/{module.name}.ko" for module in loadable]
        entries.append(cpio.directory("modules"))
        entries += [cpio.file(path, module.data) for path, module in zip(paths, loadable, strict=True)]
        entries.append(cpio.file("modules.list", "".join(f"/{path}\n" for path in paths).encode()))
    target = io.BytesIO()
    cpio.write(entries, target)
    return target.getvalue()
