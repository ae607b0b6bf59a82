"""What every guest of this host boots: kernel and initramfs, and the machine that a placement becomes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from actors.model.image import RootImage
from actors.model.network import guest_mac
from actors.model.paths import HostPaths
from actors.model.records import Placement
from actors.tap.messages import TapDevice
from actors.vm.config_drive import GuestConfig, stop_signal_number
from actors.vm.jail import JAIL, UID_BASE, vm_uid
from actors.vm.machine import Drive, JailSpec, MachineSpec, Nic

#: The same on every hypervisor. Secrets never come here: every process in the guest can read it.
CMDLINE = "console=ttyS0 reboot=k panic=1 quiet loglevel=1 random.trust_cpu=on"

CONSOLE, LOG, FIGURES, DISK, CONFIG = "console.log", "vmm.log", "metrics.json", "upper.ext4", "config"
#: What stays of a placement that is gone: the ends of its console and of its monitor's log, and the last figures.
KEPT = frozenset({CONSOLE, LOG, FIGURES})
#: Directory of empty file systems below the data directory.
TEMPLATES = "templates"


@dataclass(frozen=True, slots=True)
class GuestImage:
    """Kernel and initramfs of this host's guests. ``version`` is kept with each start, for people and for support."""

    kernel: Path
    initrd: Path
    version: str


def machine(
    placement: Placement,
    *,
    guest: GuestImage,
    root: RootImage,
    tap: TapDevice,
    paths: HostPaths,
    cgroup: str,
    uid_base: int = UID_BASE,
    restore: Path | None = None,
) -> MachineSpec:
    """Return the machine for a placement: its drives in the order that the guest's init expects. Pure.

    ``restore`` is the directory with the state that it goes on from, None for one that boots.
    """
    data, run = paths.placement(placement.id), paths.vm_run(placement.id)
    return MachineSpec(
        id=placement.id,
        vcpu=placement.resources.vcpu,
        memory=placement.resources.memory,
        kernel=guest.kernel,
        initrd=guest.initrd,
        cmdline=CMDLINE,
        drives=(
            Drive("root", Path(root.rootfs), read_only=True),
            Drive("upper", data / DISK, read_only=False),
            Drive("config", run / CONFIG, read_only=True),
        ),
        nic=Nic(tap.name, tap.mac),
        console=data / CONSOLE,
        log=data / LOG,
        run=run,
        cgroup=cgroup,
        restore=restore,
        jail=JailSpec(data / JAIL, vm_uid(uid_base, placement.lease)),
        identity={
            "instance": str(placement.instance_id),
            "placement": str(placement.id),
            "generation": str(placement.generation),
            "hostname": placement.hostname,
            "image": placement.image_digest,
            "ipv4": str(placement.lease.v4),
            **({"ipv6": str(placement.lease.v6)} if placement.lease.v6 is not None else {}),
        },
    )


def guest_config(placement: Placement, *, nonce: str, dns: tuple[str, ...], epoch: float) -> GuestConfig:
    """Return what the guest is told. Pure. Raises `InvalidInput` when the image can't be run as it is."""
    image = placement.image_config
    environment = dict(entry.partition("=")[::2] for entry in image.env if "=" in entry)
    environment.setdefault("PORT", str(placement.default_port))
    return GuestConfig(
        nonce=nonce,
        instance=str(placement.instance_id),
        hostname=placement.hostname,
        mac=guest_mac(placement.lease),
        v4=placement.lease.v4,
        v6=placement.lease.v6,
        dns=dns,
        argv=placement.command or image.argv,
        env={**environment, **placement.environment},
        cwd=image.working_dir or "/",
        user=image.user,
        stop_signal=stop_signal_number(image.stop_signal),
        stop_timeout=placement.stop_timeout,
        epoch=epoch,
    )
