"""What Firecracker's authors say of it. Measured by them, on their machines, with Linux as the guest."""

from __future__ import annotations

from bench._minimal import emulated
from bench.question import Answer

_SPECIFICATION = "Firecracker's SPECIFICATION.md"
_PAPER = "Agache et al., NSDI '20"


def boot() -> Answer:
    """InstanceStart to the guest's init, milliseconds."""
    what = f"{_SPECIFICATION}: InstanceStart to /sbin/init; the guest's part"
    return Answer("Firecracker, published, at most", 125.0, f"{what}{here()}", apart=True)


def process() -> Answer:
    """Start of the process until its API answers, milliseconds."""
    return Answer("Firecracker, published: process to API, typically", 12.0, _SPECIFICATION, apart=True)


def overhead() -> Answer:
    """Memory of the monitor beside its guest's, KiB."""
    what = f"{_SPECIFICATION}: the monitor beside its guest, 1 vCPU and 128 MiB"
    return Answer("Firecracker, published, at most", 5 * 1024.0, what, apart=True)


def rate() -> Answer:
    """Machines a second on one host."""
    return Answer("Firecracker, published, up to", 150.0, f"{_PAPER}: on a host with many more CPUs", apart=True)


def here() -> str:
    """Say what a guest's time is worth on this machine."""
    return "; here KVM emulates guest kernels: host-side times only" if emulated() else ""
