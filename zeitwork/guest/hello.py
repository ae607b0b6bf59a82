"""The bundled hello app: an image made on the machine, of nothing but its static busybox.

The archive is an OCI image layout in a tar file. The same busybox gives the same digest.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
from pathlib import Path
from typing import Any

from actors.model.errors import Unavailable

PORT = 8080
NAME = "hello"
#: Where Debian's busybox-static puts it; merged and unmerged /usr.
BUSYBOX_PATHS = (Path("/bin/busybox"), Path("/usr/bin/busybox"))

_UID = 1000
_OCI = "application/vnd.oci.image"
_PT_INTERP = 3

#: The page is made when the app starts: the guest's hostname is known only then. The shell stays, so that SIGTERM ends
#: the app with status 0 and at once.
_SCRIPT = """\
#!/bin/busybox sh
read -r name </proc/sys/kernel/hostname
cat >index.html <<PAGE
<!doctype html>
<title>Hello from Zeitwork</title>
<h1>Hello from Zeitwork</h1>
<p>This is ${name}, an app in a virtual machine of its own.</p>
PAGE
address="[::]"
[ -e /proc/net/if_inet6 ] || address="0.0.0.0"
trap 'kill "$server"; exit 0' TERM INT
httpd -f -p "$address:${PORT:-8080}" -h . &
server=$!
echo "hello: serving on port ${PORT:-8080}"
wait "$server"
"""

_PASSWD = f"root:x:0:0:root:/:/bin/sh\nhello:x:{_UID}:{_UID}:hello:/www:/bin/sh\n"
_GROUP = f"root:x:0:\nhello:x:{_UID}:\n"


def build_hello(target: Path, busybox: Path | None = None) -> str:
    """Write the hello app's archive to ``target`` and return its manifest digest (``sha256:...``).

    ``busybox`` must be statically linked; without it the machine's own is taken. Raises `Unavailable` when there is
    none.
    """
    layer = _layer(_static_busybox(busybox))
    compressed = gzip.compress(layer, compresslevel=6, mtime=0)
    config = _json(
        {
            "created": "1970-01-01T00:00:00Z",
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "User": "hello",
                "ExposedPorts": {f"{PORT}/tcp": {}},
                "Env": ["PATH=/bin"],
                "Entrypoint": ["/bin/sh", "/hello"],
                "WorkingDir": "/www",
                "StopSignal": "SIGTERM",
                "Labels": {"org.opencontainers.image.title": NAME},
            },
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "zeitwork"}],
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": _descriptor(f"{_OCI}.config.v1+json", config),
            "layers": [_descriptor(f"{_OCI}.layer.v1.tar+gzip", compressed)],
        }
    )
    described = _descriptor(f"{_OCI}.manifest.v1+json", manifest)
    index = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.index.v1+json",
            "manifests": [{**described, "annotations": {"org.opencontainers.image.ref.name": f"{NAME}:latest"}}],
        }
    )
    members = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": index}
    members |= {f"blobs/sha256/{_digest(blob)[7:]}": blob for blob in (compressed, config, manifest)}
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(members):
            _add(archive, path, members[path])
    return _digest(manifest)


def _static_busybox(path: Path | None) -> bytes:
    candidates = BUSYBOX_PATHS if path is None else (path,)
    for candidate in candidates:
        try:
            data = candidate.read_bytes()
        except OSError:
            continue
        if _is_static(data):
            return data
    raise Unavailable(
        f"there is no static busybox (looked at {', '.join(map(str, candidates))})",
        fix="run: apt-get install -y busybox-static",
        code="busybox-missing",
    )


def _is_static(data: bytes) -> bool:
    """A program that names an interpreter needs shared libraries, which the image does not have."""
    if len(data) < 64 or data[:6] != b"\x7fELF\x02\x01":
        return False
    table = struct.unpack_from("<Q", data, 32)[0]
    size, count = struct.unpack_from("<HH", data, 54)
    try:
        kinds = [struct.unpack_from("<I", data, table + index * size)[0] for index in range(count)]
    except (struct.error, OverflowError):
        return False
    return _PT_INTERP not in kinds


def _layer(busybox: bytes) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        _add(archive, "bin", None)
        _add(archive, "bin/busybox", busybox, mode=0o755)
        for applet in ("cat", "httpd", "kill", "sh"):
            _add(archive, f"bin/{applet}", None, link="busybox")
        _add(archive, "etc", None)
        _add(archive, "etc/group", _GROUP.encode())
        _add(archive, "etc/passwd", _PASSWD.encode())
        _add(archive, "hello", _SCRIPT.encode(), mode=0o755)
        _add(archive, "tmp", None, mode=0o1777)
        _add(archive, "www", None, owner=_UID)
    return target.getvalue()


def _add(
    archive: tarfile.TarFile, path: str, data: bytes | None, *, mode: int = 0, owner: int = 0, link: str | None = None
) -> None:
    """Add a file, a symbolic link (``link``) or, without data, a directory; root's and without a time by default."""
    member = tarfile.TarInfo(path)
    member.uid = member.gid = owner
    if link is not None:
        member.type, member.linkname, member.mode = tarfile.SYMTYPE, link, 0o777
    elif data is None:
        member.type, member.mode = tarfile.DIRTYPE, mode or 0o755
    else:
        member.size, member.mode = len(data), mode or 0o644
    archive.addfile(member, io.BytesIO(data) if data is not None else None)


def _descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return "sha256:" + hashlib.sha256(blob).hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
