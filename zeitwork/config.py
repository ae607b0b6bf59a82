"""Configuration of a host: TOML file < environment ``ZEITWORK_*`` < command line flags, all under the same names."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any

from actors.model.errors import InvalidInput
from actors.model.paths import HostPaths
from actors.model.units import parse_mib
from actors.vm.jail import UID_BASE

DEFAULT_FILE = Path("/etc/zeitwork/zeitwork.toml")
DEFAULT_DATA_DIR = Path("/var/lib/zeitwork")
DEFAULT_RUN_DIR = Path("/run/zeitwork")
#: Port of links where an address has none.
LINK_PORT = 7946


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a non-empty string")
    return value


def _path(value: Any) -> Path:
    return Path(_text(str(value) if isinstance(value, Path) else value)).expanduser().absolute()


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ValueError("must be true or false")


def _choice(*choices: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return str(value)

    return parse


def _whole(minimum: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"\d+", value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise ValueError(f"must be a whole number, at least {minimum}")
        return value

    return parse


def _jailer(value: Any) -> str:
    """Paths become absolute; the two words stay."""
    return str(value) if value in ("auto", "off") else str(_path(value))


def _uid_base(value: Any) -> int:
    base = _whole(1000)(value)
    if base + (1 << 24) > 1 << 31:
        raise ValueError("must leave room for 16777216 users below 2147483648")
    return base


def _ratio(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if isinstance(value, bool) or not 0.1 <= number <= 100:
        raise ValueError("must be a number from 0.1 to 100")
    return number


def _percent(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if isinstance(value, bool) or not 1 <= number <= 100:
        raise ValueError("must be a percentage from 1 to 100")
    return number


def _memory(value: Any) -> int:
    return parse_mib(value)


def _pool(value: Any) -> IPv4Network:
    network = value if isinstance(value, IPv4Network) else IPv4Network(_text(value))
    if network.prefixlen != 16:
        raise ValueError("must be an IPv4 /16, for example 10.201.0.0/16")
    return network


def _region_prefix(value: Any) -> IPv6Network:
    network = value if isinstance(value, IPv6Network) else IPv6Network(_text(value))
    if network.prefixlen != 48:
        raise ValueError("must be an IPv6 /48, for example fd12:3456:789a::/48")
    return network


def _http(value: Any) -> str:
    text = _text(value)
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("must be HOST:PORT, for example 127.0.0.1:8080 or [::1]:8080")
    return text


def link_address(value: Any) -> str:
    """Return ``HOST:PORT`` of a host; a port may be left out; for names and addresses. Raises `ValueError`."""
    text = _text(value)
    try:
        host, port = _split_address(text)
    except ValueError:
        raise ValueError(
            f"must be ADDRESS or ADDRESS:PORT, for example 192.0.2.1:{LINK_PORT} or [2001:db8::1]:{LINK_PORT}"
        ) from None
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _split_address(text: str) -> tuple[str, int]:
    try:
        host, port = str(ip_address(text)), LINK_PORT
    except ValueError:
        match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9][A-Za-z0-9.-]*))(?::(\d{1,5}))?", text)
        if match is None:
            raise
        host, port = match[2] or str(IPv6Address(match[1])), int(match[3] or LINK_PORT)
    if not 0 < port < 65536 or host in ("0.0.0.0", "::"):
        raise ValueError(text)
    return host, port


def _addresses(value: Any) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else list(value)
    return tuple(link_address(item.strip() if isinstance(item, str) else item) for item in items)


def _join(value: Any) -> str:
    text = _text(value)
    if not re.fullmatch(r"https://[^/?#@\s]+/?", text):
        raise ValueError("must be the https:// address that zeitwork token create printed")
    return text


def _labels(value: Any) -> dict[str, str]:
    if isinstance(value, Mapping):
        pairs = [(str(key), str(item)) for key, item in value.items()]
    else:
        items = value.split(",") if isinstance(value, str) else list(value)
        pairs = []
        for item in items:
            key, separator, text = item.partition("=")
            if not separator:
                raise ValueError(f"{item!r} is not KEY=VALUE")
            pairs.append((key.strip(), text.strip()))
    for key, text in pairs:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?", key) or len(text) > 63:
            raise ValueError(f"{key}={text} is not a label (letters, digits, ._/-; at most 63 each)")
    return dict(pairs)


def _setting(parse: Callable[[Any], Any], default: Any, **more: Any) -> Any:
    if callable(default):
        return field(default_factory=default, metadata={"parse": parse, **more})
    return field(default=default, metadata={"parse": parse, **more})


@dataclass(frozen=True)
class Config:
    """Everything a host process can be told. Field names are the TOML keys and, upper-cased, the environment's."""

    data_dir: Path = _setting(_path, DEFAULT_DATA_DIR)
    run_dir: Path | None = _setting(_path, None)
    assets_dir: Path | None = _setting(_path, None)
    http: str = _setting(_http, "127.0.0.1:8080")
    socket: Path | None = _setting(_path, None)
    database_url: str | None = _setting(_text, None)
    hypervisor: str = _setting(_choice("auto", "firecracker", "qemu"), "auto")
    firecracker: Path | None = _setting(_path, None)
    jailer: str = _setting(_jailer, "auto")
    vm_uid_base: int = _setting(_uid_base, UID_BASE)
    kernel: Path | None = _setting(_path, None)
    initrd: Path | None = _setting(_path, None)
    region: str = _setting(_text, "default")
    label: dict[str, str] = _setting(_labels, dict)
    stop_vms: bool = _setting(_flag, False)
    vcpu_overcommit: float = _setting(_ratio, 4.0)
    memory_overcommit: float = _setting(_ratio, 1.0)
    vcpu_reserved: int = _setting(_whole(0), 0)
    memory_reserved: int | None = _setting(_memory, None)
    memory_pressure: float = _setting(_percent, 20.0)
    ipv4_pool: IPv4Network | None = _setting(_pool, None)
    ipv6_prefix: IPv6Network | None = _setting(_region_prefix, None)
    advertise: str | None = _setting(link_address, None)
    peers: tuple[str, ...] = _setting(_addresses, ())
    join: str | None = _setting(_join, None)
    token: str | None = _setting(_text, None)
    unclaimed: bool = _setting(_flag, False)
    log_level: str = _setting(_choice("debug", "info", "warning", "error"), "info")
    log_format: str = _setting(_choice("auto", "text", "json"), "auto")

    @property
    def tag(self) -> str:
        """Empty for the default data directory; else what keeps a second host's names apart on this machine."""
        if self.data_dir == DEFAULT_DATA_DIR:
            return ""
        return hashlib.sha256(str(self.data_dir).encode()).hexdigest()[:8]

    @property
    def paths(self) -> HostPaths:
        """Directories of this host."""
        run = self.run_dir or (DEFAULT_RUN_DIR if not self.tag else Path(f"{DEFAULT_RUN_DIR}-{self.tag}"))
        return HostPaths(data=self.data_dir, run=run, assets=self.assets_dir)

    @property
    def api_socket(self) -> Path:
        """The control endpoint's unix socket."""
        return self.socket or self.paths.api_socket


def load(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Config:
    """Return the configuration. Flags that are None were not given.

    ``file`` must exist when given; the default one may be absent. Raises `InvalidInput` naming the setting, where
    it came from and what it should look like.
    """
    names = {item.name: item for item in fields(Config)}
    values: dict[str, Any] = {}

    def take(name: str, value: Any, origin: str) -> None:
        if name not in names:
            raise InvalidInput(f"{origin} has an unknown setting", field=name, fix=f"known: {', '.join(names)}")
        try:
            values[name] = names[name].metadata["parse"](value)
        except (ValueError, TypeError, InvalidInput) as error:
            detail = error.detail if isinstance(error, InvalidInput) else str(error)
            # A flag that may be repeated: as it was written, and no tuple.
            shown = " ".join(map(repr, value)) if isinstance(value, tuple) else repr(value)
            raise InvalidInput(f"{origin} has {shown}: {detail}", field=name) from None

    chosen = file or DEFAULT_FILE
    try:
        content = tomllib.loads(chosen.read_text())
    except FileNotFoundError:
        if file is not None:
            raise InvalidInput(f"{file} does not exist", field="config", fix="give the path of a TOML file") from None
        content = {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(f"{chosen} can't be read: {error}", field="config", fix="mend or remove it") from None
    for name, value in content.items():
        take(name, value, str(chosen))
    prefix = "ZEITWORK_"
    for key, value in sorted((environ or {}).items()):
        name = key[len(prefix) :].lower()
        # Only names of settings: ZEITWORK_TEST_* and the like belong to others.
        if key.startswith(prefix) and name in names:
            take(name, value, key)
    for name, value in (flags or {}).items():
        if value is not None:
            take(name, value, f"--{name.replace('_', '-')}")
    return Config(**values)
