"""Hosts whose guests are the minimal one: a few KB without an operating system, ready in milliseconds.

``python -m bench._minimal run …`` is ``zeitwork run`` with Firecracker and that guest, real in everything else. The
guest can't say that its app runs, so that line is written for it once Firecracker has started it; it has no agent
either, so it can't be frozen, and what is restored is not one of these.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

from actors.model.paths import HostPaths
from actors.vm.firecracker import Firecracker
from actors.vm.guest import GuestImage
from actors.vm.machine import Command, Hypervisor, MachineSpec
from bench._host import Host, a_host
from bench._host import missing as missing_for_any
from zeitwork import cli, tree
from zeitwork.config import Config

_PORT = 7


def binary() -> Path | None:
    """Return Firecracker's path, None when it is not here."""
    return _existing("ZEITWORK_TEST_FIRECRACKER")


def jailer() -> Path | None:
    """Return the jailer's path, None when it is not here: guests then run without jails, and the notes say so."""
    return _existing("ZEITWORK_TEST_JAILER")


def kernel_file() -> Path | None:
    """Return the minimal guest's path, None when it is not here."""
    return _existing("ZEITWORK_TEST_MINIMAL_GUEST")


def _existing(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value and Path(value).is_file() else None


def missing() -> str | None:
    """Say why no such host can be measured here, None when one can."""
    if reason := missing_for_any():
        return reason
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "/dev/kvm is missing or not writable"
    if binary() is None or kernel_file() is None:
        return "ZEITWORK_TEST_FIRECRACKER or ZEITWORK_TEST_MINIMAL_GUEST does not name a file"
    return None


def emulated() -> bool:
    """Return whether KVM emulates guest kernels here: then times inside guests say nothing about other machines."""
    flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return not flags or not {"vmx", "svm"} & set(flags[1].split())


@dataclass(frozen=True)
class Minimal(Firecracker):
    """Firecracker that starts the minimal guest in place of every other."""

    kernel: Path = Path("/nowhere")

    def _own(self, spec: MachineSpec) -> MachineSpec:
        return minimal(spec, self.kernel, IPv4Address(spec.identity["ipv4"]))

    def prepare(self, spec: MachineSpec) -> None:
        """Make its jail."""
        Firecracker.prepare(self, self._own(spec))

    def settle(self, spec: MachineSpec) -> None:
        """Unmount what it has opened."""
        Firecracker.settle(self, self._own(spec))

    def command(self, spec: MachineSpec) -> Command:
        """Return its command line."""
        return Firecracker.command(self, self._own(spec))

    async def boot(self, spec: MachineSpec) -> None:
        """Start the guest, and say for it that it has."""
        await Firecracker.boot(self, self._own(spec))
        nonce = json.loads((spec.log.parent / "intent.json").read_bytes())["nonce"]
        with spec.console.open("ab") as console:
            console.write(f"\n[zeitwork {nonce}] started\n".encode())


def minimal(spec: MachineSpec, kernel: Path, address: IPv4Address) -> MachineSpec:
    """Return ``spec`` with the minimal guest, which answers at ``address``. Pure."""
    return replace(spec, kernel=kernel, initrd=None, cmdline=f"console=ttyS0 ip={address}")


def answers(address: str, seconds: float) -> bool:
    """Return whether the guest at ``address`` answers within that time; asked again every few milliseconds."""
    end = time.monotonic() + seconds
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(0.005)
        while time.monotonic() < end:
            try:
                probe.sendto(b"?", (address, _PORT))
                if probe.recv(64):
                    return True
            except OSError:
                continue
    return False


@contextmanager
def a_minimal_host(*arguments: str) -> Iterator[Host]:
    """Yield such a host, not started. `missing` must have said None."""
    jails = jailer()
    own = (
        "--vcpu-overcommit",
        "100",
        "--hypervisor",
        "firecracker",
        "--firecracker",
        str(binary()),
        "--jailer",
        str(jails or "off"),
        *arguments,
    )
    with a_host(*own) as host:
        host.module = "bench._minimal"
        yield host


async def _choose(config: Config, paths: HostPaths, guest: GuestImage) -> Hypervisor:
    """Stand for `zeitwork.tree._choose`: nothing is probed, as the minimal guest has no init to reach."""
    del guest
    found, kernel = tree.find_firecracker(config, paths), kernel_file()
    assert found is not None
    assert kernel is not None
    return Minimal(found, jailer=tree.find_jailer(config, paths), kernel=kernel)


def main() -> None:
    """Be ``zeitwork`` with another guest."""
    tree._choose = _choose
    sys.argv[0] = "zeitwork"
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
