"""What VMs run on: KVM, the hypervisors, the guest."""

from __future__ import annotations

import os
from pathlib import Path

from zeitwork.doctor.check import Check, Patient, fail, ok, warn
from zeitwork.setup import firecracker as pinned
from zeitwork.setup import guest as assets

_WITHOUT_KVM = "VMs run in software (QEMU TCG), several times slower"


def kvm(patient: Patient) -> list[Check]:
    """Hardware virtualisation. Whether a guest really boots is tried by the host itself, once per boot."""
    device = patient.options.layout.kvm
    flags = _cpu_flags(patient.options.layout.at("/proc/cpuinfo"))
    hardware = bool({"vmx", "svm"} & flags)
    if not device.exists():
        advice = "modprobe kvm_intel (or kvm_amd)" if hardware else "enable (nested) virtualisation for this machine"
        return warn("kvm", f"no {device}: {_WITHOUT_KVM}", advice)
    if not os.access(device, os.R_OK | os.W_OK):
        if os.geteuid() != 0:
            return ok("kvm", f"{device} is there; the host, as root, may use it")
        return warn("kvm", f"{device} can't be opened: {_WITHOUT_KVM}", "give this container the device")
    if not hardware:
        return warn(
            "kvm",
            f"{device} works without vmx or svm: it emulates guest kernels, in which ordinary ones may hang. The host "
            "tries one, and falls back to QEMU's software mode",
        )
    return ok("kvm", str(device))


def firecracker(patient: Patient) -> list[Check]:
    """The microVM monitor, by its sum or version."""
    options, given = patient.options, patient.config.firecracker
    path = given or (options.firecracker if options.firecracker.exists() else patient.tools.which("firecracker"))
    if path is None:
        if options.layout.kvm.exists():
            return warn("firecracker", "missing; QEMU runs the VMs, with more memory for each", "zeitwork setup")
        return ok("firecracker", "not needed without KVM")
    if path == options.firecracker and pinned.is_ours(path):
        return ok("firecracker", f"{pinned.VERSION} ({path}, SHA-256 as pinned)")
    if path == options.firecracker:
        return fail(
            "firecracker", f"{path} is not what setup put there (its SHA-256 differs)", f"rm {path} && zeitwork setup"
        )
    version = pinned.version_of(path, patient.tools)
    text = ".".join(str(number) for number in version) if version else "no version"
    if pinned.accepted(version):
        return ok("firecracker", f"{text} ({path})")
    needed = f"{'.'.join(map(str, pinned.OLDEST))} or newer"
    return warn("firecracker", f"{path} says {text}; {needed} is needed", "zeitwork setup")


def jailer(patient: Patient) -> list[Check]:
    """What confines Firecracker."""
    options, config = patient.options, patient.config
    if not options.layout.kvm.exists():
        return ok("jailer", "not needed without KVM")
    if config.jailer == "off":
        return warn(
            "jailer", "switched off: Firecracker runs as root, confined by its own filters only", "--jailer auto"
        )
    path = options.jailer if config.jailer == "auto" else Path(config.jailer)
    if config.jailer == "auto" and not path.exists():
        path = patient.tools.which("jailer") or path
    if not os.access(path, os.X_OK):
        return warn("jailer", f"missing ({path}); Firecracker would run without it, as root", "zeitwork setup")
    if path == options.jailer and not pinned.is_ours(path):
        return fail(
            "jailer", f"{path} is not what setup put there (its SHA-256 differs)", f"rm {path} && zeitwork setup"
        )
    flags = os.statvfs(options.paths.data).f_flag if options.paths.data.exists() else 0
    if flags & (os.ST_NODEV | os.ST_NOEXEC):
        return warn(
            "jailer",
            f"{options.paths.data} is mounted nodev or noexec: no jails can be there, so Firecracker runs without",
            "keep the data on a file system that is mounted without these",
        )
    return ok("jailer", str(path))


def guest(patient: Patient) -> list[Check]:
    """The kernel that guests boot, and the demo's app."""
    options = patient.options
    found: list[Check] = []
    for name, path in (("kernel", options.kernel), ("initrd", options.initrd)):
        if path is not None and not os.access(path, os.R_OK):
            found += fail(f"guest {name}", f"{path} can't be read", f"give --{name} a file that exists")
    if options.kernel is not None:
        found += found or ok("guest kernel", f"{options.kernel}, as configured")
    else:
        release = assets.kernel_release(options)
        if release is None:
            found += fail("guest kernel", f"none, or not a whole one, in {options.paths.guest}", "zeitwork setup")
        else:
            found += ok("guest kernel", release)
    if options.hello.is_file():
        return found + ok("hello app", str(options.hello))
    return found + warn("hello app", f"no {options.hello}; zeitwork demo needs it", "zeitwork setup")


def _cpu_flags(cpuinfo: Path) -> frozenset[str]:
    try:
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


LOOKS = (kvm, firecracker, jailer, guest)
