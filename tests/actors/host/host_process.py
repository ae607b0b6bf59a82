"""A host process around the real actors, to be killed: ``python -m tests.actors.host.host_process CONFIG.json``.

``ZEITWORK_CRASH_POINT=NAME[:N]`` has it killed where it reaches that point of `actors.model.crash_points` for the Nth
time. Reads commands from standard input, one a line: ``wake``, ``view``, ``unhealthy PLACEMENT``, ``stop-all SECONDS``,
``end``; answers ``view`` and ``stop-all`` with a JSON line.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any
from uuid import UUID

import trio

from actors.host.actor import Host
from actors.host.messages import StopAll, Unhealthy, Vms, Wake
from actors.images.messages import NAME, EnsureRoot
from actors.model.crash_points import CrashPoint
from actors.model.errors import NotFound
from actors.model.image import ImageConfig, RootImage
from actors.model.network import HostNetwork
from actors.model.paths import HostPaths
from actors.model.records import Placement
from actors.tap.actor import TapActor
from actors.tap.actor import actor_name as tap_name
from actors.tap.network import NetworkHost
from actors.vm.actor import VmActor, actor_name
from actors.vm.console import ROTATE_AT
from actors.vm.firecracker import Firecracker
from actors.vm.guest import GuestImage
from actors.vm.jail import possible as jail_possible
from actors.vm.leftovers import VmLeftovers
from actors.vm.lifecycle import Limits
from actors.vm.machine import Acceleration, Hypervisor
from actors.vm.messages import Stop
from actors.vm.qemu import Qemu
from actors.vm.settings import HypervisorChoice, VmSettings, by_name, cgroup_parent
from actors.vm.snapshots import SnapshotFiles
from runtime import Actor, Message, Ref, Spec, System, crash
from tests.actors.host.file_store import NODE, FileStore
from tests.actors.host.minimal import Minimal
from tests.actors.host.shell import Shell
from zeitwork import logs

#: Seconds for the host's actor to answer: not what any test is about.
_ANSWER = 90.0


@dataclass(frozen=True)
class Config:
    """``tag`` keeps this host's TAPs, rules and cgroups apart."""

    base: str
    tag: str
    cluster: str
    hypervisor: str
    binary: str
    kernel: str
    initrd: str
    rootfs: str
    start_deadline: float = 60.0
    console_limit: int = ROTATE_AT
    pulse: float = 10.0


class OneImage(Actor):
    def __init__(self, rootfs: str) -> None:
        self._rootfs = rootfs

    async def receive(self, message: Message) -> None:
        assert isinstance(message, EnsureRoot)
        if message.digest != "sha256:test":
            self.ctx.fail(NotFound(f"image {message.digest} is not here", fix="pull it again"))
            return
        self.ctx.reply(RootImage("sha256:test", self._rootfs, ImageConfig()))


async def main(config: Config) -> None:
    base = Path(config.base)
    paths = HostPaths(base / "data", base / "run")
    store = FileStore(base / "store")
    jailer = os.environ.get("ZEITWORK_TEST_JAILER") if jail_possible() else None
    hypervisor: Hypervisor = Firecracker(Path(config.binary), jailer=Path(jailer) if jailer else None)
    if config.hypervisor == "qemu":
        hypervisor = Qemu(Path(config.binary), Acceleration.TCG)
    elif config.hypervisor == "shell":
        hypervisor = Shell(Path(config.binary))
    elif config.hypervisor == "minimal":
        hypervisor = Minimal(Path(config.binary), jailer=Path(jailer) if jailer else None)

    async def choose() -> Hypervisor:
        return hypervisor

    def control(name: str, acceleration: str) -> Hypervisor:
        return hypervisor if name == "shell" else by_name(name, acceleration)

    settings = VmSettings(
        paths=paths,
        cluster_id=config.cluster,
        guest=GuestImage(Path(config.kernel), Path(config.initrd), "test"),
        hypervisors=HypervisorChoice(choose),
        cgroup=cgroup_parent(config.tag),
        boots=trio.Semaphore(1),
        starts=trio.Semaphore(1),
        limits=lambda _: Limits(start=config.start_deadline, margin=1.0),
        control=control,
        console_limit=config.console_limit,
        pulse=config.pulse,
    )
    net = HostNetwork(IPv6Network("fd7a:77::/64"), IPv4Network("172.31.0.0/16"))
    network = NetworkHost(net, config.tag, base / "data" / "sysctl.json")
    await network.start()

    def make_tap(placement: Placement) -> Spec:
        factory = lambda: TapActor(placement.id, placement.lease, network)  # noqa: E731
        return Spec(tap_name(placement.id), factory, restart="transient")

    def make_vm(placement: Placement, tap: Ref, host: Ref, stop: Stop | None) -> Spec:
        factory = lambda: VmActor(placement, settings, store, store, tap=tap, host=host, stop=stop)  # noqa: E731
        return Spec(actor_name(placement), factory, restart="temporary", init_timeout=30)

    files = SnapshotFiles(paths.snapshots, config.cluster)
    leftovers = VmLeftovers(paths, settings.cgroup, network.drop, network.names)
    async with System() as system:
        await system.start(Spec(NAME, lambda: OneImage(config.rootfs)))
        make_host = lambda: Host(NODE, config.cluster, store, store, leftovers, make_tap, make_vm, files)  # noqa: E731
        host = await system.start(Spec("host", make_host))
        say({"up": True})
        await commands(host)
    say({"ended": True})


async def commands(host: Ref) -> None:
    async for line in lines():
        match line.split():
            case ["wake"]:
                host.tell(Wake("test"))
            case ["view"]:
                view = await host.ask(Vms(), timeout=_ANSWER)
                say(
                    {
                        "vms": [
                            {"id": str(vm.placement_id), "phase": vm.phase, "pid": vm.pid, "adopted": vm.adopted}
                            for vm in view.vms
                        ],
                        "orphans": [str(orphan.placement_id) for orphan in view.orphans],
                        "reconciled": view.reconciled_at is not None,
                    }
                )
            case ["unhealthy", placement]:
                host.tell(Unhealthy(UUID(placement), "no answer from port 80"))
            case ["stop-all", seconds]:
                say({"stopped": await host.ask(StopAll(float(seconds)), timeout=float(seconds) + _ANSWER)})
            case ["end"]:
                return


async def lines() -> Any:
    buffer = b""
    async with trio.lowlevel.FdStream(0) as stream:
        async for data in stream:
            buffer += data
            while b"\n" in buffer:
                line, _, buffer = buffer.partition(b"\n")
                yield line.decode()


def say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def run(config: Path, crash_point: str) -> None:
    logs.configure("debug", "text")
    if crash_point:
        where, _, count = crash_point.partition(":")
        crash.arm(CrashPoint(where), int(count or 1))
    trio.run(main, Config(**json.loads(config.read_text())))


if __name__ == "__main__":
    run(Path(sys.argv[1]), os.environ.get("ZEITWORK_CRASH_POINT", ""))
