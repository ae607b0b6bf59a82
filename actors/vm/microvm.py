"""Everything that a Firecracker can be told before its guest starts, as values that are right once they exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from actors.model.errors import InvalidInput

METADATA_ADDRESS = IPv4Address("169.254.169.254")
_LINK_LOCAL = IPv4Network("169.254.0.0/16")
_MOST_VCPU = 32
#: Bytes that Firecracker takes in one request.
_MOST_METADATA = 50 * 1024
#: Seconds for a snapshot to be loaded; its memory is only mapped.
_LOAD = 20.0


class Cache(StrEnum):
    """What a guest's flush does: nothing, or reach the disk."""

    UNSAFE = "Unsafe"
    WRITEBACK = "Writeback"


class IoEngine(StrEnum):
    """How a drive's file is read and written; ASYNC is io_uring, for host kernels from 5.10.51 on."""

    SYNC = "Sync"
    ASYNC = "Async"


class HugePages(StrEnum):
    """Pages behind the guest's memory."""

    NONE = "None"
    TWO_MIB = "2M"


class CpuTemplate(StrEnum):
    """CPU features that a guest sees, so that it may move between CPUs of one kind."""

    NONE = "None"
    C3 = "C3"
    T2 = "T2"
    T2S = "T2S"
    T2CL = "T2CL"
    T2A = "T2A"
    V1N1 = "V1N1"


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the API; ``deadline`` in seconds."""

    method: str
    path: str
    body: dict[str, Any]
    deadline: float = 5.0


def _require(condition: bool, detail: str, name: str) -> None:
    if not condition:
        raise InvalidInput(detail, field=name)


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tokens: ``size`` (bytes or operations) come back every ``refill`` milliseconds, ``burst`` more once."""

    size: int
    refill: int
    burst: int = 0

    def __post_init__(self) -> None:
        _require(self.size > 0 and self.refill > 0, "a rate limit needs a size and a time above 0", "rate_limit")
        _require(self.burst >= 0, "a burst can't be below 0", "rate_limit")

    def body(self) -> dict[str, Any]:
        """Return it in the API's words."""
        return {"size": self.size, "refill_time": self.refill, "one_time_burst": self.burst}


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Limits of a device, each optional."""

    bandwidth: Bucket | None = None
    operations: Bucket | None = None

    def body(self) -> dict[str, Any]:
        """Return it in the API's words."""
        found = {"bandwidth": self.bandwidth, "ops": self.operations}
        return {name: bucket.body() for name, bucket in found.items() if bucket is not None}


@dataclass(frozen=True, slots=True)
class BlockDevice:
    """A drive. None of ours is a root device in Firecracker's sense: that adds a ``root=`` to the command line."""

    name: str
    path: Path
    read_only: bool
    cache: Cache = Cache.UNSAFE
    engine: IoEngine = IoEngine.SYNC
    limit: RateLimit | None = None

    def call(self) -> Call:
        """Return its request."""
        body: dict[str, Any] = {
            "drive_id": self.name,
            "path_on_host": str(self.path),
            "is_root_device": False,
            "is_read_only": self.read_only,
            "cache_type": self.cache.value,
            "io_engine": self.engine.value,
        }
        if self.limit is not None:
            body["rate_limiter"] = self.limit.body()
        return Call("PUT", f"/drives/{self.name}", body)


@dataclass(frozen=True, slots=True)
class NetworkCard:
    """A card on an existing TAP. Its MTU is the TAP's: this version's API has none of its own."""

    name: str
    tap: str
    mac: str
    receive: RateLimit | None = None
    transmit: RateLimit | None = None

    def call(self) -> Call:
        """Return its request."""
        body: dict[str, Any] = {"iface_id": self.name, "guest_mac": self.mac, "host_dev_name": self.tap}
        for name, limit in (("rx_rate_limiter", self.receive), ("tx_rate_limiter", self.transmit)):
            if limit is not None:
                body[name] = limit.body()
        return Call("PUT", f"/network-interfaces/{self.name}", body)


@dataclass(frozen=True, slots=True)
class Metadata:
    """Version 2 of the metadata service (with session tokens): ``content`` answers at ``address`` through ``cards``."""

    content: Mapping[str, Any]
    cards: tuple[str, ...] = ("eth0",)
    address: IPv4Address = METADATA_ADDRESS

    def __post_init__(self) -> None:
        _require(bool(self.cards), "metadata needs a network card", "metadata")
        _require(self.address in _LINK_LOCAL, "the metadata address must be in 169.254.0.0/16", "metadata")
        _require(len(repr(dict(self.content))) <= _MOST_METADATA, "the metadata is too long (50 KiB)", "metadata")

    def content_call(self) -> Call:
        """Return the request that says what it answers: all that a restored machine has to be told."""
        return Call("PUT", "/mmds", dict(self.content))

    def calls(self) -> list[Call]:
        """Return its requests."""
        config = {"version": "V2", "network_interfaces": list(self.cards), "ipv4_address": str(self.address)}
        return [Call("PUT", "/mmds/config", config), self.content_call()]


@dataclass(frozen=True, slots=True)
class Vsock:
    """A socket device between guest ``cid`` and the unix socket ``path``."""

    cid: int
    path: Path

    def __post_init__(self) -> None:
        _require(3 <= self.cid < 1 << 32, "a guest's vsock id is at least 3 and has 32 bits", "vsock")

    def call(self) -> Call:
        """Return its request."""
        return Call("PUT", "/vsock", {"guest_cid": self.cid, "uds_path": str(self.path)})


@dataclass(frozen=True, slots=True)
class Balloon:
    """A balloon of ``memory`` MiB; ``statistics`` is the seconds between them, 0 for none."""

    memory: int = 0
    deflate_on_oom: bool = True
    statistics: int = 0

    def __post_init__(self) -> None:
        _require(self.memory >= 0 and self.statistics >= 0, "a balloon has no negative size or interval", "balloon")

    def call(self) -> Call:
        """Return its request."""
        body = {
            "amount_mib": self.memory,
            "deflate_on_oom": self.deflate_on_oom,
            "stats_polling_interval_s": self.statistics,
        }
        return Call("PUT", "/balloon", body)


@dataclass(frozen=True, slots=True)
class MicroVm:
    """A whole Firecracker machine. ``memory`` in MiB. ``metrics`` is an existing file or pipe that gets its figures."""

    vcpu: int
    memory: int
    kernel: Path
    boot_args: str
    initrd: Path | None = None
    drives: tuple[BlockDevice, ...] = ()
    cards: tuple[NetworkCard, ...] = ()
    smt: bool = False
    track_dirty_pages: bool = False
    huge_pages: HugePages = HugePages.NONE
    cpu_template: CpuTemplate = CpuTemplate.NONE
    entropy: bool = True
    entropy_limit: RateLimit | None = None
    log_level: str | None = None
    metrics: Path | None = None
    metadata: Metadata | None = None
    vsock: Vsock | None = None
    balloon: Balloon | None = None

    def __post_init__(self) -> None:
        """Refuse what Firecracker would refuse, before there is a process. Raises `InvalidInput`."""
        count = self.vcpu
        _require(1 <= count <= _MOST_VCPU, f"Firecracker gives a guest 1 to {_MOST_VCPU} CPUs", "vcpu")
        _require(not self.smt or count == 1 or count % 2 == 0, "threads come in pairs: an even number of CPUs", "vcpu")
        _require(self.memory > 0, "a guest needs memory", "memory")
        pages = self.huge_pages
        _require(pages is HugePages.NONE or self.memory % 2 == 0, "huge pages need an even number of MiB", "memory")
        _require(pages is HugePages.NONE or self.balloon is None, "a balloon can't give huge pages back", "huge_pages")
        names = [drive.name for drive in self.drives]
        _require(len(set(names)) == len(names), "two drives have one name", "drives")
        macs, own = [card.mac for card in self.cards], {card.name for card in self.cards}
        _require(len(own) == len(self.cards) == len(set(macs)), "two cards have one name or one MAC", "cards")
        if self.metadata is not None:
            _require(own >= set(self.metadata.cards), "the metadata names a card that is not there", "metadata")
        if self.balloon is not None:
            _require(self.balloon.memory <= self.memory, "the balloon is larger than the guest", "balloon")

    def calls(self) -> list[Call]:
        """Return the requests that make it out of a fresh Firecracker, in order; the guest is not started by them."""
        calls = []
        if self.log_level is not None:
            calls.append(Call("PUT", "/logger", {"level": self.log_level}))
        if self.metrics is not None:
            calls.append(self.metrics_call())
        calls += [Call("PUT", "/machine-config", self._machine()), Call("PUT", "/boot-source", self._boot())]
        calls += [drive.call() for drive in self.drives]
        calls += [card.call() for card in self.cards]
        if self.metadata is not None:
            calls += self.metadata.calls()
        if self.vsock is not None:
            calls.append(self.vsock.call())
        if self.balloon is not None:
            calls.append(self.balloon.call())
        if self.entropy:
            limit = self.entropy_limit
            calls.append(Call("PUT", "/entropy", {} if limit is None else {"rate_limiter": limit.body()}))
        return calls

    def metrics_call(self) -> Call:
        """Return the request that says where its figures go."""
        return Call("PUT", "/metrics", {"metrics_path": str(self.metrics)})

    def _machine(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "vcpu_count": self.vcpu,
            "mem_size_mib": self.memory,
            "smt": self.smt,
            "track_dirty_pages": self.track_dirty_pages,
        }
        # Said only when wanted: templates go in a later version, and other pages need a kernel that has some.
        if self.huge_pages is not HugePages.NONE:
            body["huge_pages"] = self.huge_pages.value
        if self.cpu_template is not CpuTemplate.NONE:
            body["cpu_template"] = self.cpu_template.value
        return body

    def _boot(self) -> dict[str, Any]:
        body = {"kernel_image_path": str(self.kernel), "boot_args": self.boot_args}
        if self.initrd is not None:
            body["initrd_path"] = str(self.initrd)
        return body


def create_snapshot(state: Path, memory: Path, deadline: float) -> Call:
    """Return the request that writes a paused machine into two files, given up after ``deadline`` seconds."""
    body = {"snapshot_type": "Full", "snapshot_path": str(state), "mem_file_path": str(memory)}
    return Call("PUT", "/snapshot/create", body, deadline)


def load_snapshot(state: Path, memory: Path, cards: tuple[NetworkCard, ...]) -> Call:
    """Return the request that makes a fresh Firecracker the machine in two files, paused, its ``cards`` on other TAPs.

    Both files must stay as they are for as long as the machine lives: its memory is read from there when it is used.
    """
    body: dict[str, Any] = {
        "snapshot_path": str(state),
        "mem_backend": {"backend_type": "File", "backend_path": str(memory)},
        "resume_vm": False,
    }
    if cards:
        body["network_overrides"] = [{"iface_id": card.name, "host_dev_name": card.tap} for card in cards]
    return Call("PUT", "/snapshot/load", body, _LOAD)
