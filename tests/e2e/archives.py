"""Small images as `docker save` writes them, made from the machine's static busybox."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any


def _add(tar: tarfile.TarFile, name: str, data: bytes = b"", **changes: Any) -> None:
    item = tarfile.TarInfo(name)
    item.size = len(data)
    for key, value in changes.items():
        setattr(item, key, value)
    tar.addfile(item, io.BytesIO(data))


def write_image(target: Path, config: dict[str, Any], applets: tuple[str, ...] = ("sh", "sleep", "echo")) -> Path:
    """Write an image whose only program is busybox, with ``config`` as its ``config`` section."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for folder in ("bin", "etc", "tmp"):
            _add(tar, folder, type=tarfile.DIRTYPE, mode=0o1777 if folder == "tmp" else 0o755)
        _add(tar, "bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755)
        for applet in applets:
            _add(tar, f"bin/{applet}", type=tarfile.SYMTYPE, linkname="busybox")
        _add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/tmp:/bin/sh\n", mode=0o644)
        _add(tar, "etc/group", b"root:x:0:\napp:x:1000:\n", mode=0o644)
    blob = layer.getvalue()
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(blob).hexdigest()}"]},
    }
    text = json.dumps(document).encode()
    name = f"{hashlib.sha256(text).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": ["test:latest"], "Layers": ["layer.tar"]}]
    with tarfile.open(target, "w") as tar:
        _add(tar, name, text, mode=0o644)
        _add(tar, "layer.tar", blob, mode=0o644)
        _add(tar, "manifest.json", json.dumps(manifest).encode(), mode=0o644)
    return target
