"""Where a host keeps its files. Everything that must survive a reboot is under ``data``, the rest under ``run``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from actors.model.ids import short_id


@dataclass(frozen=True, slots=True)
class HostPaths:
    """Directories of one host process. ``run`` is on tmpfs: it may hold secrets and sockets, never large files.

    ``assets`` holds what setup brought (guest kernel, binaries, the hello image) when that is not in ``data``: the
    demo has data of its own and shares these.
    """

    data: Path
    run: Path
    assets: Path | None = None

    @property
    def images(self) -> Path:
        """Root filesystems by digest, and downloaded blobs."""
        return self.data / "images"

    @property
    def spool(self) -> Path:
        """Archives that were uploaded and wait to become images."""
        return self.data / "spool"

    @property
    def postgres(self) -> Path:
        """The embedded database's data directory and binaries."""
        return self.data / "postgres"

    @property
    def guest(self) -> Path:
        """Guest kernel, its modules, and the initramfs."""
        return (self.assets or self.data) / "guest"

    @property
    def bin(self) -> Path:
        """Binaries that setup fetched, such as firecracker."""
        return (self.assets or self.data) / "bin"

    @property
    def hello(self) -> Path:
        """The bundled hello app, an image archive that setup makes."""
        return (self.assets or self.data) / "hello.tar"

    @property
    def placements(self) -> Path:
        """One directory for each placement: intent, writable disk, console log."""
        return self.data / "placements"

    def placement(self, placement_id: UUID) -> Path:
        """Return the durable directory of one placement."""
        return self.placements / str(placement_id)

    @property
    def snapshots(self) -> Path:
        """One directory for each snapshot: the machine's state and memory, its writable disk, and a manifest."""
        return self.data / "snapshots"

    def vm_run(self, placement_id: UUID) -> Path:
        """Return the directory of one VMM's sockets, PID file and config drive."""
        return self.run / "vm" / short_id(placement_id)

    @property
    def api_socket(self) -> Path:
        """The control endpoint's unix socket."""
        return self.run / "zeitwork.sock"
