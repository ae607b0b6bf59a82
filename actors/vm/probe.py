"""Which hypervisor this machine can really use: a probe guest that reached its init is the only proof."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import structlog
import trio

from actors.model.errors import InvalidInput, Problem, Unavailable
from actors.vm.cgroup import Cgroup
from actors.vm.console import ConsoleParser
from actors.vm.files import last_words, write_atomic
from actors.vm.firecracker import Firecracker
from actors.vm.guest import CMDLINE, GuestImage
from actors.vm.jail import UID_BASE
from actors.vm.jail import remove as remove_jail
from actors.vm.launch import launch
from actors.vm.machine import Acceleration, Hypervisor, JailSpec, MachineSpec
from actors.vm.process import VmProcess, boot_id
from actors.vm.qemu import Qemu

#: Seconds for a probe guest to reach its init when there is another choice, and when the user insists on this one.
DEADLINE, PATIENT = 10.0, 60.0
#: MiB of a probe guest.
_MEMORY = 128
_REMEMBERED = "probe.json"
_KVM = Path("/dev/kvm")
_QEMU = "qemu-system-x86_64"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a hypervisor can be used; ``reason`` says why not."""

    usable: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Programs that may be there. ``run`` is a directory on tmpfs, ``cgroup`` the parent of this host's groups.

    ``memory`` is where verdicts are kept, ``run`` when None: what KVM can do is a fact about the machine, so hosts on
    it may share what one of them found out. It must not outlive the boot. ``jailer`` is for Firecracker's guests, None
    when there is none; ``jails`` is where the probe's jail is made, on a file system that may hold devices, and
    ``uid`` its user.
    """

    firecracker: Path | None
    qemu: Path | None
    guest: GuestImage
    run: Path
    cgroup: str
    kvm: Path = _KVM
    memory: Path | None = None
    jailer: Path | None = None
    jails: Path | None = None
    uid: int = UID_BASE


def find_qemu() -> Path | None:
    """Return QEMU's path, None when it is not installed."""
    found = shutil.which(_QEMU)
    return Path(found) if found else None


async def choose(wanted: str, candidates: Candidates) -> Hypervisor:
    """Return the hypervisor to use for ``auto``, ``firecracker`` or ``qemu``.

    ``auto`` takes Firecracker where KVM is usable with it, then QEMU with KVM, then QEMU translating in software.
    Raises `Unavailable` with the reason when what was wanted can't work, `InvalidInput` for an unknown word.
    """
    if wanted not in ("auto", "firecracker", "qemu"):
        raise InvalidInput(f"{wanted!r} is not a hypervisor", field="hypervisor", fix="auto, firecracker or qemu")
    for path in (candidates.guest.kernel, candidates.guest.initrd):
        if not await trio.Path(path).exists():
            raise Unavailable(f"{path} is missing: no guest can boot", field="kernel", fix="run zeitwork setup")
    reasons = []
    if wanted in ("auto", "firecracker"):
        patience = DEADLINE if wanted == "auto" else PATIENT
        if candidates.firecracker is None:
            verdict = Verdict(False, "firecracker is not installed")
        else:
            firecracker = Firecracker(candidates.firecracker, jailer=candidates.jailer)
            verdict = await judge(firecracker, candidates, patience)
            if verdict.usable:
                if candidates.jailer is None:
                    log.warning("firecracker runs without the jailer", fix="zeitwork setup brings it")
                return firecracker
        reasons.append(f"firecracker: {verdict.reason}")
        if wanted == "firecracker":
            fix = "use --hypervisor qemu or auto; zeitwork setup installs what is missing"
            raise Unavailable(f"firecracker can't be used here: {verdict.reason}", field="hypervisor", fix=fix)
    if candidates.qemu is None:
        reasons.append("qemu: not installed")
        raise Unavailable(
            f"no hypervisor can be used here: {'; '.join(reasons)}",
            field="hypervisor",
            fix="run zeitwork setup, or: apt install qemu-system-x86",
        )
    fast = Qemu(candidates.qemu, Acceleration.KVM)
    verdict = await judge(fast, candidates, DEADLINE)
    if verdict.usable:
        return fast
    slow = Qemu(candidates.qemu, Acceleration.TCG)
    version = await slow.version()
    log.info("guests are translated in software", qemu=version, kvm=verdict.reason)
    return slow


async def judge(hypervisor: Hypervisor, candidates: Candidates, deadline: float) -> Verdict:
    """Return whether a probe guest reaches its init in ``deadline`` seconds; remembered for this boot of the host."""
    if not os.access(candidates.kvm, os.R_OK | os.W_OK):
        there = await trio.Path(candidates.kvm).exists()
        return Verdict(False, f"{candidates.kvm} {'is not writable' if there else 'is missing'}")
    try:
        await hypervisor.version()
    except Problem as problem:
        return Verdict(False, problem.detail)
    key = await trio.to_thread.run_sync(_key, hypervisor, candidates.guest)
    memory = (candidates.memory or candidates.run) / _REMEMBERED
    known = await trio.to_thread.run_sync(_recall, memory, key)
    # A failure under less patience says nothing about more of it.
    if known is not None and (known[0].usable or known[1] >= deadline):
        return known[0]
    verdict = await _probe(hypervisor, candidates, deadline)
    log.info("probe guest", hypervisor=hypervisor.name, usable=verdict.usable, reason=verdict.reason or None)
    await trio.to_thread.run_sync(_remember, memory, key, verdict, deadline)
    return verdict


async def _probe(hypervisor: Hypervisor, candidates: Candidates, deadline: float) -> Verdict:
    run = candidates.run / f"probe-{hypervisor.name}"
    spec = MachineSpec(
        id=UUID(int=0),
        vcpu=1,
        memory=_MEMORY,
        kernel=candidates.guest.kernel,
        initrd=candidates.guest.initrd,
        cmdline=f"{CMDLINE} zeitwork.probe=1",
        drives=(),
        nic=None,
        console=run / "console.log",
        log=run / "vmm.log",
        run=run,
        cgroup=f"{candidates.cgroup}/probe-{hypervisor.name}",
        jail=None if candidates.jails is None else JailSpec(candidates.jails, candidates.uid),
        agent=False,
    )
    cgroup = Cgroup.of(spec.cgroup)
    # A host that was killed while it probed has left its guest.
    await trio.to_thread.run_sync(_clean, run, cgroup, candidates.jails)
    process: VmProcess | None = None
    try:
        process, _ = await launch(hypervisor, spec)
        return await _until_init(spec, process, deadline)
    except Problem as problem:
        return Verdict(False, problem.detail)
    finally:
        if process is not None:
            await process.kill()
            process.close()
        with trio.move_on_after(5, shield=True):
            await trio.to_thread.run_sync(_clean, run, cgroup, candidates.jails)


async def _until_init(spec: MachineSpec, process: VmProcess, deadline: float) -> Verdict:
    parser = ConsoleParser("-")
    offset = 0
    with trio.move_on_after(deadline):
        while True:
            over = not process.running
            data = spec.console.read_bytes()[offset:]
            offset += len(data)
            if any(line.verb in ("booted", "probe") for line in parser.feed(data)):
                return Verdict(True)
            if over:
                words = " ".join([*parser.output, last_words(spec.log, 300)]).strip()
                return Verdict(False, f"the probe guest died before its init ran{f': {words}' if words else ''}")
            await trio.sleep(0.02)
    said = f" (its console ends: {parser.output[-1]})" if parser.output else ""
    return Verdict(False, f"a probe guest did not reach its init within {deadline:g} s{said}")


def _clean(run: Path, cgroup: Cgroup, jails: Path | None) -> None:
    """Remove what a probe leaves, a guest that still runs included. What stays is said, and hurts nobody. Blocking."""
    for pid in cgroup.members():
        if pid > 0:  # 0: one that this process can't see
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
    try:
        # The group first: it waits for the guest to be gone, which may hold what is in the jail.
        cgroup.remove()
        if jails is not None:
            remove_jail(jails)
    except OSError as error:
        log.warning("something of a probe guest stays", reason=str(error))
    shutil.rmtree(run, ignore_errors=True)


def _key(hypervisor: Hypervisor, guest: GuestImage) -> str:
    """Name a combination of programs and machine: any change of it needs a new probe."""
    parts: list[object] = [boot_id(), hypervisor.name, hypervisor.acceleration]
    files: Sequence[Path] = (*hypervisor.programs, guest.kernel, guest.initrd)
    for path in files:
        stat = path.stat()
        parts += [path, stat.st_size, stat.st_mtime_ns, stat.st_ino]
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def _recall(memory: Path, key: str) -> tuple[Verdict, float] | None:
    try:
        entry = json.loads(memory.read_bytes())[key]
        return Verdict(bool(entry["usable"]), str(entry["reason"])), float(entry["deadline"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _remember(memory: Path, key: str, verdict: Verdict, deadline: float) -> None:
    try:
        entries = json.loads(memory.read_bytes())
    except (OSError, ValueError):
        entries = {}
    boot = boot_id()
    # Other boots' verdicts are worthless: /run may be a plain directory that survived.
    entries = {name: entry for name, entry in entries.items() if isinstance(entry, dict) and entry.get("boot") == boot}
    entries[key] = {"usable": verdict.usable, "reason": verdict.reason, "deadline": deadline, "boot": boot}
    memory.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(memory, json.dumps(entries).encode(), durable=False)
