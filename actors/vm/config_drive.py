"""The config drive, version 1: how the host tells a guest's init what to run and with which addresses.

The drive is raw bytes: the magic ``ZWCONF1\\n``, the payload's length and CRC-32 (both 32-bit little endian), the
payload, and zeros to a whole number of 512-byte sectors. The payload is records ``name=value\\0`` in UTF-8. A reader
ignores names that it does not know, so new ones may be added without a new version.
"""

from __future__ import annotations

import re
import signal
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from actors.model.errors import InvalidInput
from actors.model.network import GATEWAY_V4, GATEWAY_V6

MAGIC = b"ZWCONF1\n"
SECTOR = 512
#: The guest's init refuses longer payloads, and Linux longer single arguments (MAX_ARG_STRLEN, its NUL included).
MAX_PAYLOAD = 1024 * 1024
MAX_STRING = 128 * 1024 - 1
#: ``resolv.conf`` is read by libraries that honour three servers; more only make the file longer.
MAX_DNS = 8

_NONCE = re.compile(r"[0-9A-Za-z]{1,64}")
_HOSTNAME = re.compile(r"[0-9A-Za-z]([0-9A-Za-z.-]{0,62}[0-9A-Za-z])?")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_SIGNAL_MAX = 64


@dataclass(frozen=True, slots=True)
class GuestConfig:
    """What one guest is told. ``argv`` must not be empty.

    ``nonce`` marks the init's own lines on the console (``[zeitwork NONCE] ...``) so that an app can't forge them.
    ``user`` is as in the image: ``""``, ``name``, ``uid``, ``uid:gid`` or ``name:group``. ``stop_timeout`` is in
    seconds: the app is killed so long after it was asked to stop. ``epoch`` is Unix seconds and sets a guest clock
    that is more than a second behind.
    """

    nonce: str
    instance: str
    hostname: str
    mac: str
    v4: IPv4Address
    argv: tuple[str, ...]
    epoch: float
    v6: IPv6Address | None = None
    dns: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/"
    user: str = ""
    stop_signal: int = int(signal.SIGTERM)
    stop_timeout: float = 30.0


def encode(config: GuestConfig) -> bytes:
    """Return the whole drive. Raises `InvalidInput` that names the field which the guest could not honour."""
    _check(config)
    payload = b"".join(_record(name, value, where) for name, value, where in _records(config))
    if len(payload) > MAX_PAYLOAD:
        raise InvalidInput(
            f"command and environment take {len(payload)} bytes; at most {MAX_PAYLOAD} fit",
            field="environment_variables",
            fix="move large values into a file of the image",
        )
    drive = MAGIC + struct.pack("<II", len(payload), zlib.crc32(payload)) + payload
    return drive + bytes(-len(drive) % SECTOR)


def stop_signal_number(name: str) -> int:
    """Return the number of an image's stop signal: ``SIGTERM``, ``TERM``, ``15`` or ``SIGRTMIN+3``; 15 for ``""``.

    Raises `InvalidInput` for anything else.
    """
    text = name.strip().upper()
    if not text:
        return int(signal.SIGTERM)
    if text.isascii() and text.isdigit() and 1 <= int(text[:4]) <= _SIGNAL_MAX:
        return int(text)
    base, _, offset = text.removeprefix("SIG").partition("+")
    number = _signal_by_name(base)
    if number is not None and offset.isascii() and (offset.isdigit() or not offset):
        number += int(offset[:4] or 0)
        if 1 <= number <= _SIGNAL_MAX:
            return number
    raise InvalidInput(f"{name!r} is not a signal", field="stop_signal", fix="use a name such as SIGTERM or a number")


def _signal_by_name(base: str) -> int | None:
    # Named in numbers of the guest: musl and Linux start real-time signals for apps at 34, as this host's libc does.
    try:
        return int(signal.Signals[f"SIG{base}"])
    except KeyError:
        return None


def _records(config: GuestConfig) -> Iterator[tuple[str, str, str]]:
    """Yield each record as (name, value, the field that a person would have to change)."""
    for name in ("nonce", "instance", "hostname", "mac"):
        yield name, str(getattr(config, name)), name
    yield "v4", f"{config.v4}/32", "v4"
    yield "v4gw", str(GATEWAY_V4), "v4"
    if config.v6 is not None:
        yield "v6", f"{config.v6}/128", "v6"
        yield "v6gw", str(GATEWAY_V6), "v6"
    for server in config.dns:
        yield "dns", server, "dns"
    for argument in config.argv:
        yield "arg", argument, "command"
    for key, value in config.env.items():
        yield "env", f"{key}={value}", f"environment_variables.{key}"
    yield "cwd", config.cwd or "/", "working_dir"
    yield "user", config.user, "user"
    yield "stop_signal", str(config.stop_signal), "stop_signal"
    yield "stop_timeout", _seconds(config.stop_timeout), "stop_timeout"
    yield "epoch", _seconds(config.epoch), "epoch"


def _record(name: str, value: str, where: str) -> bytes:
    try:
        data = value.encode()
    except UnicodeEncodeError:
        raise InvalidInput("text that is not valid UTF-8", field=where) from None
    if b"\0" in data:
        raise InvalidInput("a NUL character can't be passed to a program", field=where)
    if len(data) > MAX_STRING:
        raise InvalidInput(f"{len(data)} bytes; one argument may have {MAX_STRING}", field=where)
    return name.encode() + b"=" + data + b"\0"


def _seconds(value: float) -> str:
    """Decimal seconds in milliseconds' precision, never in exponent notation: the guest's reader knows digits only."""
    return f"{value:.3f}"


def _check(config: GuestConfig) -> None:
    if not _NONCE.fullmatch(config.nonce):
        raise InvalidInput("must be 1 to 64 letters and digits", field="nonce")
    if not _HOSTNAME.fullmatch(config.hostname):
        raise InvalidInput(f"{config.hostname!r} is not a hostname of at most 64 characters", field="hostname")
    if not _MAC.fullmatch(config.mac):
        raise InvalidInput(f"{config.mac!r} is not a MAC address", field="mac")
    if not config.argv or not config.argv[0]:
        raise InvalidInput(
            "there is no command to run: the image has neither entrypoint nor cmd",
            field="command",
            fix="give a command",
        )
    if config.cwd and not config.cwd.startswith("/"):
        raise InvalidInput(f"{config.cwd!r} is not an absolute path", field="working_dir")
    if len(config.dns) > MAX_DNS:
        raise InvalidInput(f"{len(config.dns)} servers; at most {MAX_DNS} are used", field="dns")
    for key in config.env:
        if not key or "=" in key:
            raise InvalidInput(f"{key!r} is not a name of an environment variable", field="environment_variables")
    if not 1 <= config.stop_signal <= _SIGNAL_MAX:
        raise InvalidInput(f"{config.stop_signal} is not a signal", field="stop_signal")
    for name, limit in (("stop_timeout", 7 * 86400.0), ("epoch", 1e11)):
        if not 0 <= getattr(config, name) <= limit:
            raise InvalidInput(f"must be between 0 and {limit:.0f} seconds", field=name)
