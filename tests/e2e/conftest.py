from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.model.errors import Problem
from actors.model.paths import HostPaths
from tests.e2e.process import HostProcess, running
from zeitwork.guest.hello import build_hello
from zeitwork.guest.kernel import fetch_kernel, load_guest
from zeitwork.store.system_user import create_user

#: Kept between runs: the guest kernel is a download of 30 MB. Where it lies is the tests' own business.
CACHE = Path(os.environ.get("ZEITWORK_TEST_CACHE", "/var/tmp/zeitwork-test-cache"))


@pytest.fixture(scope="session")
def assets() -> Path:
    """What setup brings: guest kernel, initramfs, the hello image, Firecracker when the environment names one."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it starts real VMs with network devices")
    for program in ("qemu-system-x86_64", "mke2fs", "tar2sqfs", "nft"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    create_user()
    root = CACHE / "assets"
    root.mkdir(parents=True, exist_ok=True)
    paths = HostPaths(root, root / "run")
    try:
        load_guest(paths)
    except Problem:
        fetch_kernel(paths.guest)
    build_hello(root / "hello.tar")
    return root


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data directory that the database's own user can reach."""
    root = Path(tempfile.mkdtemp(prefix="zeitwork-e2e-", dir="/var/tmp"))
    root.chmod(0o755)
    try:
        yield root / "data"
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def directories() -> Iterator[tuple[Path, Path, Path]]:
    """Data directories of three hosts, each alone in its parent."""
    roots = [Path(tempfile.mkdtemp(prefix="zeitwork-e2e-", dir="/var/tmp")) for _ in range(3)]
    try:
        for root in roots:
            root.chmod(0o755)
        yield roots[0] / "data", roots[1] / "data", roots[2] / "data"
    finally:
        for root in roots:
            shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def host(assets: Path, data_dir: Path) -> Iterator[HostProcess]:
    """A running host on QEMU, which works on every machine."""
    with running(HostProcess(data_dir, assets, ["--hypervisor", "qemu"])) as process:
        yield process


@pytest.fixture(scope="module")
def shared_host(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    """One host for the tests of a module that leave it as they found it."""
    root = Path(tempfile.mkdtemp(prefix="zeitwork-e2e-", dir="/var/tmp"))
    root.chmod(0o755)
    try:
        with running(HostProcess(root / "data", assets, ["--hypervisor", "qemu"])) as process:
            yield process
    finally:
        shutil.rmtree(root, ignore_errors=True)
