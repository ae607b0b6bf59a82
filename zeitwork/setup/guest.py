"""The guest's kernel, initramfs and hello image, as setup makes them."""

from __future__ import annotations

from collections.abc import Callable

from zeitwork.setup.options import SetupOptions
from zeitwork.setup.tools import Tools


def kernel_release(options: SetupOptions) -> str | None:
    """Return the release of the guest kernel that is there, None when there is none."""
    return None


def has_initramfs(options: SetupOptions) -> bool:
    """Whether the initramfs is there, and is the one for this kernel and this version's init."""
    return False


def fetch_kernel(options: SetupOptions, line: Callable[[str], None]) -> None:
    """Put the distribution's kernel and its modules into the guest directory."""


def build_initramfs(options: SetupOptions) -> None:
    """Make the initramfs from our init and the kernel's modules."""


def build_hello(options: SetupOptions, tools: Tools) -> None:
    """Make the hello app's image."""
