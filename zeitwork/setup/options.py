"""What setup is asked to do, how it talks to a person, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from actors.model.paths import HostPaths
from zeitwork.config import Config
from zeitwork.setup.layout import Layout

GROUP = "zeitwork"


@dataclass(frozen=True, slots=True)
class SetupOptions:
    """What to set up.

    ``systemd`` adds the service. ``embedded`` is False when the host uses a database of its owner (no system user is
    needed then). ``kernel`` and ``initrd`` are given when the host brings its own guest. ``tag`` keeps the
    network of one host apart from that of another one on this machine.
    """

    paths: HostPaths = field(default_factory=lambda: Config().paths)
    systemd: bool = False
    embedded: bool = True
    kernel: Path | None = None
    initrd: Path | None = None
    tag: str = ""
    layout: Layout = field(default_factory=Layout)

    @classmethod
    def of(cls, config: Config, *, systemd: bool = False) -> SetupOptions:
        """Return what a host with this configuration needs."""
        return cls(
            paths=config.paths,
            systemd=systemd,
            embedded=config.database_url is None,
            kernel=config.kernel,
            initrd=config.initrd,
            tag=config.tag,
        )

    @property
    def home(self) -> Path:
        """The directory that setup fills, and that holds its manifest: that of the assets when hosts share them."""
        return self.paths.assets or self.paths.data

    @property
    def manifest(self) -> Path:
        """What setup changed."""
        return self.home / "setup.json"

    @property
    def table(self) -> str:
        """The host's nftables table."""
        return f"zeitwork_{self.tag}" if self.tag else "zeitwork"

    @property
    def sysctl_record(self) -> Path:
        """Where a host writes the kernel settings that it changed itself."""
        return self.paths.data / "sysctl.json"

    @property
    def hello(self) -> Path:
        """The bundled app's image archive."""
        return self.paths.hello

    @property
    def firecracker(self) -> Path:
        """Where setup puts Firecracker."""
        return self.paths.bin / "firecracker"

    @property
    def jailer(self) -> Path:
        """Where setup puts Firecracker's jailer."""
        return self.paths.bin / "jailer"

    @property
    def busybox(self) -> Path:
        """Where setup puts a static busybox when the package can't be installed beside the machine's own busybox."""
        return self.paths.bin / "busybox"


@dataclass(frozen=True, slots=True)
class SetupResult:
    """What came of it: the steps done, sentences about what was left out or kept, and whether a person refused."""

    done: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    declined: bool = False


class SetupUi(Protocol):
    """How setup shows its plan, asks, and reports progress."""

    def show(self, text: str) -> None:
        """Show a sentence, or a paragraph of the plan."""

    def confirm(self, question: str) -> bool:
        """Ask; only a clear yes is True."""

    def begin(self, title: str, number: int, count: int) -> None:
        """Say that a step starts."""

    def progress(self, line: str) -> None:
        """Show what a step's program says now."""

    def end(self, warning: str | None) -> None:
        """Say that a step ended; ``warning`` when it was left out."""
