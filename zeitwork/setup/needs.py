"""The programs that a host runs, the Debian packages that bring them, and why each is needed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Need:
    """A program, its package and its use. ``version`` is the argument that makes it tell its version."""

    command: str
    package: str
    why: str
    version: tuple[str, ...] = ("--version",)


NEEDS: tuple[Need, ...] = (
    Need("qemu-system-x86_64", "qemu-system-x86", "runs VMs where KVM can't be used"),
    Need("mke2fs", "e2fsprogs", "makes the writable disk of a VM", ("-V",)),
    Need("tar2sqfs", "squashfs-tools-ng", "makes root filesystems from image layers"),
    Need("nft", "nftables", "isolates VMs and lets them reach the outside"),
)

BUSYBOX = Need("busybox", "busybox-static", "is the bundled hello app's only program", ())
