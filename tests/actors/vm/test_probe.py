"""Which hypervisor is chosen, why not another one, and that the answer is remembered for this boot only."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.model.errors import InvalidInput, Unavailable
from actors.vm import probe
from actors.vm.cgroup import Cgroup
from actors.vm.firecracker import Firecracker
from actors.vm.guest import GuestImage
from actors.vm.machine import Acceleration
from actors.vm.probe import Candidates, choose, judge
from zeitwork.guest import initramfs


@pytest.fixture
def base() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="zwp-"))
    (path / "kernel").write_bytes(b"k")
    (path / "initrd").write_bytes(b"i")
    yield path
    shutil.rmtree(path)


def candidates(base: Path, **changes: Any) -> Candidates:
    fields: dict[str, Any] = {
        "firecracker": None,
        "qemu": probe.find_qemu(),
        "guest": GuestImage(base / "kernel", base / "initrd", "test"),
        "run": base / "run",
        "cgroup": f"zeitwork-t{base.name[-6:]}",
        "kvm": base / "no-kvm",
    }
    return Candidates(**{**fields, **changes})


async def test_without_kvm_guests_are_translated(base: Path) -> None:
    if probe.find_qemu() is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    for wanted in ("auto", "qemu"):
        chosen = await choose(wanted, candidates(base))
        assert (chosen.name, chosen.acceleration) == ("qemu", Acceleration.TCG)


async def test_an_explicit_choice_that_cannot_work_says_why(base: Path) -> None:
    with pytest.raises(Unavailable, match="firecracker is not installed"):
        await choose("firecracker", candidates(base))
    with pytest.raises(Unavailable, match="no-kvm is missing"):
        await choose("firecracker", candidates(base, firecracker=Path("/bin/true")))
    with pytest.raises(Unavailable, match="no hypervisor can be used here: .*firecracker.*qemu: not installed"):
        await choose("auto", candidates(base, qemu=None))
    with pytest.raises(InvalidInput):
        await choose("xen", candidates(base))


async def test_without_a_guest_kernel_nothing_can_boot(base: Path) -> None:
    (base / "kernel").unlink()
    with pytest.raises(Unavailable, match="no guest can boot") as caught:
        await choose("auto", candidates(base))
    assert caught.value.fix == "run zeitwork setup"


def firecracker() -> Firecracker:
    binary = os.environ.get("ZEITWORK_TEST_FIRECRACKER")
    if not binary or "ZEITWORK_TEST_MINIMAL_GUEST" not in os.environ or not os.access("/dev/kvm", os.W_OK):
        pytest.skip("ZEITWORK_TEST_FIRECRACKER or ZEITWORK_TEST_MINIMAL_GUEST is not set, or /dev/kvm not writable")
    return Firecracker(Path(binary))


async def test_a_guest_that_never_reaches_an_init_is_no_proof_and_that_is_remembered(base: Path) -> None:
    hypervisor = firecracker()
    kernel = Path(os.environ["ZEITWORK_TEST_MINIMAL_GUEST"])
    shutil.copy(kernel, base / "kernel")
    what = candidates(base, kvm=Path("/dev/kvm"))
    verdict = await judge(hypervisor, what, 0.5)
    assert not verdict.usable
    assert "did not reach its init within 0.5 s" in verdict.reason
    memory = base / "run" / "probe.json"
    [entry] = json.loads(memory.read_bytes()).values()
    assert entry["reason"] == verdict.reason
    # Remembered: a changed note is believed, so no second guest was started.
    key = next(iter(json.loads(memory.read_bytes())))
    memory.write_text(json.dumps({key: {**entry, "reason": "from memory"}}))
    assert (await judge(hypervisor, what, 0.5)).reason == "from memory"
    # More patience, another kernel: asked anew.
    assert (await judge(hypervisor, what, 0.6)).reason != "from memory"
    shutil.copy(kernel, base / "kernel2")
    (base / "kernel2").replace(base / "kernel")
    assert (await judge(hypervisor, what, 0.5)).reason != "from memory"
    assert os.listdir(base / "run") == ["probe.json"]  # noqa: PTH208


def test_what_a_killed_host_left_of_its_probe_is_removed(base: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes a control group")
    group, run, jails = Cgroup.of(f"zeitwork-t{base.name[-6:]}/probe-x"), base / "probe-x", base / "jails"
    entries = group.create()
    if not entries:
        pytest.skip("no hierarchy of control groups is writable")
    (run / "jail").mkdir(parents=True)
    jails.mkdir()
    with subprocess.Popen(["sleep", "1000"]) as orphan:
        try:
            for entry in entries:
                entry.write_text(str(orphan.pid))
            probe._clean(run, group, jails)
            assert orphan.wait(30) == -signal.SIGKILL
        finally:
            orphan.kill()
    assert group.members() == frozenset()
    assert [path for root in group.roots if (path := root / group.name).exists()] == []
    assert not run.exists()
    assert not jails.exists()


def test_what_stays_of_a_probe_ends_nobody(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(group: Cgroup) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy", group.name)

    monkeypatch.setattr(Cgroup, "remove", busy)
    (base / "probe-x").mkdir()
    probe._clean(base / "probe-x", Cgroup("zeitwork/probe-x", ()), None)
    assert not (base / "probe-x").exists()


async def test_firecracker_is_chosen_when_a_real_guest_reaches_its_init(base: Path) -> None:
    hypervisor = firecracker()
    kernel = os.environ.get("ZEITWORK_TEST_KERNEL")
    if not kernel:
        pytest.skip("ZEITWORK_TEST_KERNEL is not set")
    (base / "initrd").write_bytes(initramfs.build(None))
    guest = GuestImage(Path(kernel), base / "initrd", "test")
    what = candidates(base, kvm=Path("/dev/kvm"), guest=guest, firecracker=hypervisor.binary)
    assert (await choose("firecracker", what)).name == "firecracker"
    # The second answer costs no guest: the memory alone gives it, for `auto` too.
    assert (await choose("auto", what)).name == "firecracker"
