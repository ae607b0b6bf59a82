"""Image configurations (OCI and Docker): which platform, which layers, and how the image wants to be run."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import dataclass

from actors.images.digest import checked_digest
from actors.images.limits import DEFAULT_LIMITS, Limits
from actors.images.problems import ImageRefused
from actors.model.image import ImageConfig

_AGAIN = "build the image again with a current tool"
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_REALTIME = re.compile(r"SIGRT(MIN\+|MAX-)\d{1,2}")
#: Together more would not fit the kernel's argument area (a quarter of an 8 MiB stack), so no such image can run.
_ARGUMENTS = 1024 * 1024
_LABELS = 256 * 1024
_PORTS = 1024


@dataclass(frozen=True, slots=True)
class ParsedConfig:
    """A configuration and the digests of its uncompressed layers, lowest first."""

    config: ImageConfig
    diff_ids: tuple[str, ...]


def parse_config(data: bytes, limits: Limits = DEFAULT_LIMITS) -> ParsedConfig:
    """Return what an image configuration says. Raises `ImageRefused` when it is not for linux/amd64 or is broken."""
    document = load_object(data, "the image's configuration")
    system, machine = document.get("os"), document.get("architecture")
    if (system or "linux") != "linux" or (machine or "amd64") != "amd64":
        raise ImageRefused(
            f"the image is for {system or 'linux'}/{machine or 'amd64'}; this host runs linux/amd64",
            fix="build or pull it for linux/amd64, for example with docker build --platform linux/amd64",
        )
    rootfs = document.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list):
        raise ImageRefused("the image's configuration lists no layers (rootfs.diff_ids)", fix=_AGAIN)
    if len(diff_ids) > limits.layers:
        raise ImageRefused(f"the image has {len(diff_ids)} layers; {limits.layers} are allowed", fix="squash it")
    section = document.get("config") or {}
    if not isinstance(section, dict):
        raise ImageRefused("the image's configuration has no readable config section", fix=_AGAIN)
    return ParsedConfig(_run_config(section), tuple(checked_digest(item, "a layer") for item in diff_ids))


def load_object(data: bytes, what: str) -> dict[str, object]:
    """Return the JSON object in ``data``. Raises `ImageRefused` that names ``what``."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ImageRefused(f"{what} is not a JSON object", fix=_AGAIN)
    return document


def _run_config(section: dict[str, object]) -> ImageConfig:
    entrypoint, cmd = _strings(section, "Entrypoint"), _strings(section, "Cmd")
    env = tuple(item for item in _strings(section, "Env") if not item.startswith("=") and "=" in item)
    if sum(len(item.encode()) + 9 for item in entrypoint + cmd + env) > _ARGUMENTS:
        raise ImageRefused("the image's command line and environment are larger than 1 MiB", fix="make them smaller")
    directory = _text(section, "WorkingDir")
    if len(directory.encode()) > 4095:
        raise ImageRefused("the image's working directory has a longer path than Linux allows", fix=_AGAIN)
    user = _text(section, "User").strip()
    if len(user.encode()) > 512 or any(character in user for character in "\n/"):
        raise ImageRefused(f"{user[:64]!r} is not a user for the image", fix="set USER to name, uid or uid:gid")
    return ImageConfig(
        entrypoint=entrypoint,
        cmd=cmd,
        env=env,
        working_dir=directory if directory.startswith("/") else f"/{directory}",
        user=user,
        exposed_ports=_ports(section.get("ExposedPorts")),
        stop_signal=_signal(_text(section, "StopSignal")),
        labels=_labels(section.get("Labels")),
    )


def _strings(section: dict[str, object], key: str) -> tuple[str, ...]:
    value = section.get(key)
    if value is None:
        return ()
    # Configurations made by hand hold one string now and then; a shell would have been asked to run it.
    if isinstance(value, str) and key != "Env":
        value = ["/bin/sh", "-c", value]
    if not isinstance(value, list) or not all(isinstance(item, str) and _is_clean(item) for item in value):
        raise ImageRefused(f"{key} in the image's configuration is not a list of strings", fix=_AGAIN)
    return tuple(value)


def _text(section: dict[str, object], key: str) -> str:
    value = section.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or not _is_clean(value):
        raise ImageRefused(f"{key} in the image's configuration is not a string", fix=_AGAIN)
    return value


def _is_clean(text: str) -> bool:
    # No NUL (C strings end there), no lone surrogates (not encodable).
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _ports(value: object) -> tuple[int, ...]:
    """Return the TCP ports, ascending. What can't be read is left out: it only serves as a suggestion."""
    ports: set[int] = set()
    for item in value if isinstance(value, (dict, list)) else ():
        match = _PORT.fullmatch(item) if isinstance(item, str) else None
        if match is None or (match[3] or "tcp").lower() != "tcp":
            continue
        first, last = int(match[1]), int(match[2] or match[1])
        if 0 < first <= last < 65536 and last - first < _PORTS:
            ports.update(range(first, last + 1))
        if len(ports) > _PORTS:
            break
    return tuple(sorted(ports)[:_PORTS])


def _signal(text: str) -> str:
    """Return ``SIGNAME`` (or ``SIGRTMIN+n``); an unknown one counts as the default, SIGTERM."""
    name = text.strip().upper()
    if name.isascii() and name.isdigit() and len(name) <= 3:
        try:
            return signal.Signals(int(name)).name
        except ValueError:
            low, high = int(signal.SIGRTMIN), int(signal.SIGRTMAX)
            return f"SIGRTMIN+{int(name) - low}" if low < int(name) <= high else "SIGTERM"
    if name and not name.startswith("SIG"):
        name = f"SIG{name}"
    return name if name in signal.Signals.__members__ or _REALTIME.fullmatch(name) else "SIGTERM"


def _labels(value: object) -> dict[str, str]:
    """Return the labels as far as they are strings and fit 256 KiB."""
    labels: dict[str, str] = {}
    room = _LABELS
    for key, text in value.items() if isinstance(value, dict) else ():
        if not isinstance(text, str) or not _is_clean(key) or not _is_clean(text):
            continue
        room -= len(key.encode()) + len(text.encode())
        if room < 0:
            break
        labels[key] = text
    return labels
