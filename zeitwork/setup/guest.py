"""The guest's kernel and the hello image, as setup makes them."""

from __future__ import annotations

import json
from collections.abc import Callable

from zeitwork.guest import hello, kernel
from zeitwork.setup.options import SetupOptions


def kernel_release(options: SetupOptions) -> str | None:
    """Return the version of the guest kernel that is there, None when there is none or a part of it is missing."""
    folder = options.paths.guest
    try:
        found = kernel.Manifest(**json.loads((folder / "manifest.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None
    whole = (folder / found.kernel).is_file() and (found.modules is None or (folder / found.modules).is_dir())
    return f"{found.package.removeprefix('linux-image-')} ({found.version})" if whole else None


def fetch_kernel(options: SetupOptions, line: Callable[[str], None]) -> None:
    """Put the distribution's kernel, its modules and the initramfs into the guest directory."""
    (options.paths.guest / "manifest.json").unlink(missing_ok=True)  # a torn one must not stop its own repair
    kernel.fetch_kernel(options.paths.guest, line)


def build_hello(options: SetupOptions) -> None:
    """Make the hello app's image."""
    busybox = options.busybox if options.busybox.exists() else None
    part = options.hello.with_suffix(".part")
    try:
        hello.build_hello(part, busybox)
        part.replace(options.hello)
    finally:
        part.unlink(missing_ok=True)
