"""The bare-metal guest in the real Firecracker: it boots in milliseconds and speaks no Zeitwork, so that is added."""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from actors.vm.firecracker import Firecracker
from actors.vm.guest import CONSOLE
from actors.vm.intent import Intent
from actors.vm.machine import Command, MachineSpec


@dataclass(frozen=True)
class Minimal(Firecracker):
    """Firecracker in all but what the guest is given: no initramfs, and its address on the command line."""

    def prepare(self, spec: MachineSpec) -> None:
        Firecracker.prepare(self, bare(spec))

    def settle(self, spec: MachineSpec) -> None:
        Firecracker.settle(self, bare(spec))

    def command(self, spec: MachineSpec) -> Command:
        return Firecracker.command(self, bare(spec))

    async def boot(self, spec: MachineSpec) -> None:
        await Firecracker.boot(self, bare(spec))


def bare(spec: MachineSpec) -> MachineSpec:
    return replace(spec, initrd=None, cmdline=f"console=ttyS0 ip={spec.identity['ipv4']}")


class Voice:
    """Says on the consoles what the product's init would, once the bare guest is ready.

    It belongs to the guests, so it lives beside the host process and not in it: killing that one must not silence them.
    """

    def __init__(self, placements: Path) -> None:
        self._placements = placements
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._end.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._end.wait(0.005):
            for console in self._placements.glob(f"*/{CONSOLE}"):
                # A start's files may come and go while they are looked at.
                with contextlib.suppress(OSError):
                    self._speak(console)

    def _speak(self, console: Path) -> None:
        intent = Intent.read(console.parent)
        if intent is None:
            return
        text = console.read_bytes()
        _, found, said = text.rpartition(b"[zeitwork] next start ")
        if found and not said.startswith(intent.nonce.encode()):
            return  # that intent is of an earlier start than the console's end
        # A line of its own: the guest writes byte by byte, and may be in the middle of one.
        line = f"\n[zeitwork {intent.nonce}] started pid=1\n".encode()
        if b"guest: READY" in said and line not in said:
            # Without O_CREAT: what was removed stays so. Appended, since the guest and its host write there as well.
            with os.fdopen(os.open(console, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC), "wb") as file:
                file.write(line)
