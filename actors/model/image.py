"""What a container image says about how to run it (OCI image configuration, the part Zeitwork honours)."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """Defaults of an image. ``env`` are ``KEY=value`` strings; ``user`` is ``""``, ``name``, ``uid`` or ``uid:gid``."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = "/"
    user: str = ""
    exposed_ports: tuple[int, ...] = ()
    stop_signal: str = "SIGTERM"
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def argv(self) -> tuple[str, ...]:
        """The command line that the guest's init starts: entrypoint followed by cmd."""
        return self.entrypoint + self.cmd


def is_upload(source: str) -> bool:
    """Say whether an image was uploaded as an archive, by its source: no other host can get it from anywhere."""
    return source.startswith("archive:")


@dataclass(frozen=True, slots=True)
class RootImage:
    """An image that is ready on this host: its root filesystem (squashfs, root-owned, 0444) and configuration."""

    digest: str
    rootfs: str
    config: ImageConfig
