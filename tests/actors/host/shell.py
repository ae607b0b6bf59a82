"""A hypervisor double: a shell script that behaves as monitor and guest. It is a real process in a real cgroup."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trio

from actors.model.errors import Failed
from actors.vm.machine import Acceleration, Command, MachineSpec


@dataclass(frozen=True)
class Shell:
    """What the script does is the placement's first argument: see ``monitor.sh``."""

    binary: Path
    name: str = "shell"
    acceleration: Acceleration = Acceleration.KVM

    @property
    def programs(self) -> tuple[Path, ...]:
        return (self.binary,)

    async def version(self) -> str:
        return "1"

    def prepare(self, spec: MachineSpec) -> None:
        pass

    def settle(self, spec: MachineSpec) -> None:
        pass

    def command(self, spec: MachineSpec) -> Command:
        return Command(("/bin/sh", str(self.binary), str(spec.run), str(spec.console)), stdout=spec.log)

    async def boot(self, spec: MachineSpec) -> None:
        with trio.move_on_after(120):
            while not (spec.run / "up").exists():  # noqa: ASYNC110 - the other side is a shell script
                await trio.sleep(0.005)
            if (spec.run / "refuse").exists():
                raise Failed("shell refused to boot: no such luck")
            return
        raise Failed("shell did not come up")

    async def request_shutdown(self, run: Path, attempt: int) -> None:
        (run / f"stop{attempt}").touch()

    async def pause(self, run: Path) -> None:
        (run / "paused").touch()

    async def resume(self, run: Path) -> None:
        (run / "paused").unlink(missing_ok=True)

    async def paused(self, run: Path) -> bool:
        return (run / "paused").exists()

    async def save(self, run: Path, target: Path) -> None:
        (target / "state").write_text("paused" if (run / "paused").exists() else "running")

    @property
    def lasting_channel(self) -> bool:
        return False

    async def agent(self, run: Path, deadline: float) -> trio.SocketStream:
        raise Failed("a shell has no agent")
