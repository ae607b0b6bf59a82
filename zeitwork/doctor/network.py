"""What packets of VMs need: TAP devices, forwarding, addresses, and a free port for the control endpoint."""

from __future__ import annotations

import socket
from pathlib import Path

import psutil

from zeitwork.doctor.check import Check, Patient, fail, ok, warn
from zeitwork.doctor.storage import lock_holder
from zeitwork.setup import forwarding


def tun(patient: Patient) -> list[Check]:
    """TAP devices."""
    device = patient.options.layout.tun
    if device.exists():
        return ok("tap devices", str(device))
    return fail("tap devices", f"no {device}", "modprobe tun, or give this container the device")


def forward(patient: Patient) -> list[Check]:
    """VMs are routed. The host switches forwarding on when it starts; setup keeps it on."""
    layout = patient.options.layout
    present = forwarding.read(layout)
    off = [key.replace("/", ".") for key in (forwarding.IPV4, forwarding.IPV6) if present.get(key) == "0"]
    if off:
        return warn("forwarding", f"{', '.join(off)} is 0; zeitwork run sets it while it runs", "zeitwork setup")
    if not layout.sysctl_file.exists():
        return warn("forwarding", "on now, maybe not after the next boot", "zeitwork setup")
    return ok("forwarding", "on, and kept on")


def ipv6(patient: Patient) -> list[Check]:
    """VMs have an IPv6 address where the machine has IPv6."""
    layout = patient.options.layout
    if not layout.at("/proc/sys/net/ipv6").exists():
        return warn(
            "ipv6", "this kernel has it switched off: VMs get IPv4 addresses only", "remove ipv6.disable=1 at boot"
        )
    for name in ("all", "default"):
        try:
            value = layout.sysctl(f"net/ipv6/conf/{name}/disable_ipv6").read_text().strip()
        except OSError:
            continue
        if value == "1":
            return warn(
                "ipv6",
                f"net.ipv6.conf.{name}.disable_ipv6 is 1: VMs get IPv4 addresses only",
                f"sysctl -w net.ipv6.conf.{name}.disable_ipv6=0",
            )
    return ok("ipv6", "on")


def port(patient: Patient) -> list[Check]:
    """Who has the control endpoint's port."""
    host, _, text = patient.config.http.rpartition(":")
    number = int(text)
    if number == 0:
        return ok("port", "any free one")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), number))
        except PermissionError:
            return ok("port", f"{patient.config.http} is for root")
        except OSError as error:
            return _taken(patient, number, error)
    return ok("port", f"{patient.config.http} is free")


def _taken(patient: Patient, number: int, error: OSError) -> list[Check]:
    try:
        listening = [entry for entry in psutil.net_connections("tcp") if entry.status == psutil.CONN_LISTEN]
    except psutil.Error:
        listening = []
    pids = {entry.pid for entry in listening if entry.laddr and entry.laddr.port == number and entry.pid}
    if lock_holder(patient.config.data_dir / "lock") in pids:
        return ok("port", f"{patient.config.http} is this host's")
    owners = ", ".join(f"{_name(pid)} (PID {pid})" for pid in sorted(pids)) or f"another process ({error.strerror})"
    return fail("port", f"{patient.config.http} is taken by {owners}", "zeitwork run --http 127.0.0.1:8081")


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "a process"


LOOKS = (tun, forward, ipv6, port)
