"""QEMU, with KVM or translating in software, controlled through QMP."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from actors.model.errors import Failed
from actors.vm.agent.wire import SERIAL
from actors.vm.machine import Acceleration, Command, MachineSpec
from actors.vm.migration import give_up, read_state, write_state
from actors.vm.qmp import Qmp
from actors.vm.ready import check
from actors.vm.saved import STATE, offered
from actors.vm.sockets import connect
from actors.vm.version import program_version

SOCKET, AGENT = "qmp.sock", "agent.sock"
#: Seconds until a fresh process listens: under load and translation it takes its time.
_LISTEN, _CALL = 30.0, 5.0
#: MiB for translated code. The default is a quarter of the *host's* idea of RAM per guest, far too much for small ones.
_TB_SIZE = 32
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_KEYS = [{"type": "qcode", "data": key} for key in ("ctrl", "alt", "delete")]
#: States in which the CPUs stand because they were told to, or wait to be told; in all others but "running" something
#: is wrong.
_PAUSED = ("paused", "postmigrate", "prelaunch", "inmigrate", "finish-migrate", "save-vm", "suspended")


@dataclass(frozen=True, slots=True)
class Qemu:
    """The hypervisor `actors.vm.machine.Hypervisor` over ``qemu-system-x86_64``."""

    binary: Path
    acceleration: Acceleration
    name: str = "qemu"

    @property
    def programs(self) -> tuple[Path, ...]:
        """QEMU alone."""
        return (self.binary,)

    async def version(self) -> str:
        """Return for example ``7.2.22``. Raises `Unavailable`."""
        return await program_version(self.binary, r"QEMU emulator version (\S+)")

    def prepare(self, spec: MachineSpec) -> None:
        """Check what it will need: it has a sandbox of its own. Blocking. Raises `Failed`."""
        check(spec, sockets=(SOCKET, AGENT), saved=(STATE,))

    def settle(self, spec: MachineSpec) -> None:
        """Do nothing."""

    def command(self, spec: MachineSpec) -> Command:
        """Return its command line: only the devices that are named, no window, no monitor but QMP, confined."""
        argv = [
            str(self.binary),
            *("-name", f"guest={spec.id}", "-uuid", str(spec.id)),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-sandbox", _SANDBOX),
            *("-M", "q35", "-m", f"{spec.memory}M", "-smp", str(spec.vcpu)),
            *self._acceleration(),
            *("-kernel", str(spec.kernel), "-append", spec.cmdline),
        ]
        if spec.initrd is not None:
            argv += ["-initrd", str(spec.initrd)]
        argv += ["-chardev", f"file,id=console,path={_escape(spec.console)},append=on", "-serial", "chardev:console"]
        argv += ["-chardev", f"socket,id=qmp,path={_escape(spec.run / SOCKET)},server=on,wait=off"]
        argv += ["-mon", "chardev=qmp,mode=control"]
        for drive in spec.drives:
            argv += ["-blockdev", json.dumps(_blockdev(drive.name, drive.path, drive.read_only))]
            argv += ["-device", f"virtio-blk-pci,drive={drive.name},serial={drive.name}"]
        if spec.nic is not None:
            # The TAP exists already; QEMU must neither make one nor run scripts.
            argv += ["-netdev", f"tap,id=eth0,ifname={spec.nic.tap},script=no,downscript=no,vhost=off"]
            argv += ["-device", f"virtio-net-pci,netdev=eth0,mac={spec.nic.mac},romfile="]
        argv += ["-object", "rng-random,id=entropy,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=entropy"]
        if spec.agent:
            argv += ["-chardev", f"socket,id=agent,path={_escape(spec.run / AGENT)},server=on,wait=off"]
            argv += ["-device", "virtio-serial-pci", "-device", f"virtserialport,chardev=agent,name={SERIAL}"]
        # A new number each time: by it a guest's kernel knows that there may be a twin of it, and draws new entropy.
        argv += ["-device", "vmgenid,guid=auto"]
        if spec.restore is not None:
            argv += ["-incoming", "defer"]
        return Command(tuple(argv), stdout=spec.log)

    def _acceleration(self) -> tuple[str, ...]:
        if self.acceleration is Acceleration.KVM:
            return "-accel", "kvm", "-cpu", "host"
        # Everything that translation can offer: libraries built for x86-64-v2 and v3 refuse less.
        return "-accel", f"tcg,tb-size={_TB_SIZE}", "-cpu", "max,la57=off"

    async def boot(self, spec: MachineSpec) -> None:
        """Wait until it answers on QMP, give it its state if it is restored, and see that it runs. Raises `Failed`."""
        async with await Qmp.connect(spec.run / SOCKET, _LISTEN) as qmp:
            if spec.restore is not None:
                await _restore(qmp, spec.restore / STATE)
            status = await _status(qmp)
        if status != "running":
            raise Failed(f"qemu started, but its guest is {status}")

    async def request_shutdown(self, run: Path, attempt: int) -> None:
        """Press the power button; on later attempts Ctrl-Alt-Del, which kernels without ACPI understand."""
        async with await Qmp.connect(run / SOCKET, _CALL) as qmp:
            if attempt == 0:
                await qmp.execute("system_powerdown", _CALL)
            else:
                await qmp.execute("send-key", _CALL, {"keys": _KEYS})

    async def pause(self, run: Path) -> None:
        """Stop the guest's CPUs; nothing happens when they are stopped."""
        async with await Qmp.connect(run / SOCKET, _CALL) as qmp:
            await qmp.execute("stop", _CALL)

    async def resume(self, run: Path) -> None:
        """Let the guest's CPUs go on; nothing happens when they run."""
        async with await Qmp.connect(run / SOCKET, _CALL) as qmp:
            await qmp.execute("cont", _CALL)

    async def paused(self, run: Path) -> bool:
        """Return whether the guest's CPUs are stopped. Raises `Failed` when something else than we stopped them."""
        async with await Qmp.connect(run / SOCKET, _CALL) as qmp:
            status = await _status(qmp)
        if status != "running" and status not in _PAUSED:
            raise Failed(f"qemu says that its guest is in the state {status!r}")
        return status != "running"

    async def save(self, run: Path, target: Path) -> None:
        """Write the state of a paused guest into `STATE` in ``target``. Raises `Failed`."""
        begun = False
        try:
            async with await Qmp.connect(run / SOCKET, _CALL) as qmp, offered(target, (STATE,)) as offer:
                if (status := await _status(qmp)) not in _PAUSED:
                    raise Failed(f"only a paused guest can be saved; qemu says that it is {status}")
                begun = True
                await write_state(qmp, offer.open[STATE])
        except BaseException:
            if begun:
                await give_up(run / SOCKET)
            raise

    @property
    def lasting_channel(self) -> bool:
        """One stream, whoever is at its other end."""
        return True

    async def agent(self, run: Path, deadline: float) -> trio.SocketStream:
        """Connect to the agent in the guest. It may not listen (yet): only its answer says so. Raises `Failed`."""
        return await connect(run / AGENT, deadline, "qemu")


async def _restore(qmp: Qmp, state: Path) -> None:
    try:
        descriptor = os.open(state, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Failed(f"the snapshot can't be read: {error.strerror}: {state}") from error
    try:
        await read_state(qmp, descriptor)
    finally:
        os.close(descriptor)
    await qmp.execute("cont", _CALL)


async def _status(qmp: Qmp) -> str:
    answer = await qmp.execute("query-status", _CALL)
    return str(answer.get("status") if isinstance(answer, dict) else answer)


def _blockdev(name: str, path: Path, read_only: bool) -> dict[str, Any]:
    file = {"driver": "file", "filename": str(path)}
    return {"driver": "raw", "node-name": name, "read-only": read_only, "file": file}


def _escape(path: Path) -> str:
    """Commas separate options in QEMU's words, and two of them are one."""
    return str(path).replace(",", ",,")
