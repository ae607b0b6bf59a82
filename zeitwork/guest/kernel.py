"""The guest kernel: a distribution's package, downloaded and unpacked below the data directory, never installed.

Installing a kernel package could change what the host itself boots next, so only apt's download and dpkg's unpacking
are used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.model.errors import Failed, InvalidInput, Problem, Unavailable
from actors.model.paths import HostPaths
from zeitwork.guest import initramfs, packages
from zeitwork.guest.modules import WANTED
from zeitwork.guest.vmlinux import NotAKernel, extract

#: Told one short sentence as each step begins.
Progress = Callable[[str], None]

#: Changes whenever `initramfs.build` makes something else of the same inputs.
_INITRD_FORMAT = 1
_MANIFEST = "manifest.json"
_MAX_KERNEL = 256 * 1024 * 1024
_VERSION = re.compile(rb"Linux version ([0-9A-Za-z.+~_-]{3,100}) ")
_SYSTEM_MODULES = Path("/lib/modules")


@dataclass(frozen=True, slots=True)
class GuestKernel:
    """What every guest boots. ``vmlinux`` is an ELF file; ``package`` is empty for a kernel that the user gave."""

    vmlinux: Path
    initrd: Path
    version: str
    has_modules: bool
    package: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was unpacked into the guest directory. Paths are relative to it; ``sha256`` is the package file's."""

    package: str
    version: str
    sha256: str
    kernel: str
    kernel_sha256: str
    modules: str | None


def fetch_kernel(dest: Path, progress: Progress | None = None) -> GuestKernel:
    """Download the newest guest kernel that apt knows into ``dest``, unpack it, and make its initramfs.

    Takes seconds to minutes, so not for the event loop. Does nothing but return when that version is there already.
    Raises `Unavailable` when apt or the package can't be had and `Failed` when what came is of no use; ``dest`` is
    then as it was.
    """
    tell = progress or (lambda _step: None)
    tell("looking for the newest guest kernel")
    image, *extra = packages.newest_kernel()
    with contextlib.suppress(Unavailable):  # what is damaged or incomplete is fetched again
        present = _read_manifest(dest)
        if present is not None and (present.package, present.version) == (image.name, image.version):
            return _from_manifest(dest, present)
    dest.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=dest) as scratch:
        downloads, tree = Path(scratch, "download"), Path(scratch, "tree")
        downloads.mkdir()
        tree.mkdir()
        for package in (image, *extra):
            tell(f"downloading {package.name} {package.version} ({package.size // 1_000_000} MB)")
            archive = packages.download(package, downloads)
            tell(f"unpacking {package.name}")
            packages.unpack(archive, tree)
            archive.unlink()
        manifest = _adopt(dest, image, tree)
    tell("building the initramfs")
    guest = _from_manifest(dest, manifest)
    _forget_others(dest, manifest)
    return guest


def load_guest(paths: HostPaths, *, kernel: Path | None = None, initrd: Path | None = None) -> GuestKernel:
    """Return the guest kernel of this host, its initramfs brought up to date with this version of Zeitwork.

    ``kernel`` (a bzImage or an ELF vmlinux) and ``initrd`` replace what setup brought. Raises `Unavailable` that says
    ``zeitwork setup`` when there is none, and `InvalidInput` on a ``kernel`` or ``initrd`` that can't be used.
    """
    if kernel is not None:
        return _from_file(paths.guest, kernel, initrd)
    manifest = _read_manifest(paths.guest)
    if manifest is None:
        raise Unavailable("there is no guest kernel", fix="run: zeitwork setup", code="guest-kernel-missing")
    guest = _from_manifest(paths.guest, manifest)
    if initrd is None:
        return guest
    return GuestKernel(guest.vmlinux, _readable(initrd, "initrd"), guest.version, guest.has_modules, guest.package)


def _adopt(dest: Path, package: packages.Package, tree: Path) -> Manifest:
    """Move kernel and modules out of an unpacked package, and write the manifest last."""
    image = next(iter(sorted(tree.glob("boot/vmlinu*-*"))), None)
    if image is None:
        raise Failed(f"the package {package.name} holds no kernel")
    release = image.name.partition("-")[2]
    modules = next(
        (path for path in (tree / "lib/modules" / release, tree / "usr/lib/modules" / release) if path.is_dir()), None
    )
    home = dest / f"{package.name}_{_safe(package.version)}"
    made = Path(tempfile.mkdtemp(prefix=".new-", dir=dest))
    try:
        elf = _extract(image, Failed)
        _write(made / "vmlinux", elf)
        if modules is not None:
            shutil.move(modules, made / "modules")
        made.chmod(0o755)
        shutil.rmtree(home, ignore_errors=True)  # what a crash between here and the manifest left
        made.rename(home)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    manifest = Manifest(
        package=package.name,
        version=package.version,
        sha256=package.sha256,
        kernel=f"{home.name}/vmlinux",
        kernel_sha256=hashlib.sha256(elf).hexdigest(),
        modules=f"{home.name}/modules" if modules is not None else None,
    )
    _write(dest / _MANIFEST, json.dumps(asdict(manifest), indent=2).encode() + b"\n")
    return manifest


def _from_manifest(dest: Path, manifest: Manifest) -> GuestKernel:
    vmlinux = dest / manifest.kernel
    modules = dest / manifest.modules if manifest.modules is not None else None
    if not vmlinux.is_file() or (modules is not None and not modules.is_dir()):
        raise Unavailable(
            f"the guest kernel in {dest} is incomplete", fix="run: zeitwork setup", code="guest-kernel-missing"
        )
    initrd = _initrd(dest, modules, manifest.kernel_sha256)
    version = manifest.package.removeprefix("linux-image-")
    return GuestKernel(vmlinux, initrd, version, modules is not None, manifest.package)


def _from_file(dest: Path, kernel: Path, initrd: Path | None) -> GuestKernel:
    image = _readable(kernel, "kernel")
    elf = _extract(image, InvalidInput)
    checksum = hashlib.sha256(elf).hexdigest()
    found = _VERSION.search(elf)
    version = found[1].decode("ascii") if found else "unknown"
    vmlinux = image
    if not image.read_bytes()[:4].startswith(b"\x7fELF"):
        vmlinux = dest / f"vmlinux-{checksum[:16]}"
        if not vmlinux.is_file():
            dest.mkdir(parents=True, exist_ok=True)
            _write(vmlinux, elf)
    # A kernel of this machine's own distribution has its modules here; another one must have its drivers built in.
    modules: Path | None = _SYSTEM_MODULES / version
    if modules is not None and not modules.is_dir():
        modules = None
    ready = _readable(initrd, "initrd") if initrd is not None else _initrd(dest, modules, checksum)
    return GuestKernel(vmlinux, ready, version, modules is not None)


def _initrd(dest: Path, modules: Path | None, kernel_sha256: str) -> Path:
    """Return the initramfs for a kernel, building it only when its inputs changed."""
    init = initramfs.init_binary()
    key = hashlib.sha256(f"{_INITRD_FORMAT} {kernel_sha256} {modules} {WANTED}".encode() + init).hexdigest()
    target = dest / f"initrd-{key[:16]}.cpio"
    if target.is_file():
        return target
    dest.mkdir(parents=True, exist_ok=True)
    try:
        archive = initramfs.build(modules, init)
    except ValueError as error:
        raise Failed(f"cannot build the initramfs: {error}", fix="run: zeitwork setup") from error
    _write(target, archive)
    return target


def _forget_others(dest: Path, manifest: Manifest) -> None:
    """Remove unpacked kernels but the current and the one before, which a running host may still use."""
    current = manifest.kernel.partition("/")[0]
    old = [path for path in dest.glob("linux-image-*") if path.is_dir() and path.name != current]
    old.sort(key=lambda path: path.stat().st_mtime)
    for path in [*old[:-1], *dest.glob(".new-*"), *dest.glob(".fetch-*")]:
        shutil.rmtree(path, ignore_errors=True)


def _read_manifest(dest: Path) -> Manifest | None:
    try:
        fields = json.loads((dest / _MANIFEST).read_text())
        return Manifest(**fields)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise Unavailable(
            f"{dest / _MANIFEST} can't be read: {error}", fix="run: zeitwork setup", code="guest-kernel-missing"
        ) from error


def _extract(image: Path, problem: type[Problem]) -> bytes:
    try:
        if image.stat().st_size > _MAX_KERNEL:
            raise NotAKernel(f"larger than {_MAX_KERNEL >> 20} MiB")
        return extract(image.read_bytes())
    except NotAKernel as error:
        raise problem(
            f"{image} is not a usable guest kernel: {error}", field="kernel", fix="give a bzImage or an ELF vmlinux"
        ) from error
    except OSError as error:
        raise problem(f"cannot read {image}: {error.strerror}", field="kernel") from error


def _readable(path: Path, field: str) -> Path:
    if not path.is_file():
        raise InvalidInput(f"{path} is not a file", field=field)
    if not os.access(path, os.R_OK):
        raise InvalidInput(f"{path} can't be read", field=field)
    return path.resolve()


def _safe(version: str) -> str:
    return re.sub(r"[^0-9A-Za-z.+~-]", "_", version)


def _write(path: Path, data: bytes) -> None:
    """Write a whole file or none of it, durable and readable by unprivileged monitors."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        Path(name).rename(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise
