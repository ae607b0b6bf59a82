"""A cluster on a network: what its hosts say, what they have, and when all of it is well."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.e2e.networks import Network
from tests.e2e.observer import Observer
from tests.e2e.process import processes_with, until
from tests.e2e.remote import RemoteHost

T = TypeVar("T")
#: Seconds until a cluster that was broken has to be whole again; mostly for a slow machine.
PATIENCE = 180.0
_log = logging.getLogger(__name__)


@dataclass
class World:
    """Hosts on a network. ``seconds`` is how long what took how long."""

    network: Network
    hosts: list[RemoteHost]
    image: str = ""
    ids: dict[str, str] = field(default_factory=dict)
    seconds: list[tuple[str, float]] = field(default_factory=list)

    def until(self, condition: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
        """Wait as `until` does, for hosts that may not answer; fail with the ends of all logs."""

        def asked() -> T | None:
            with suppress(OSError):
                return condition()
            return None

        started = time.monotonic()
        try:
            found = until(asked, what, seconds)
        except AssertionError as error:
            logs = "\n".join(f"--- {host.name}\n{host.tail()}" for host in self.hosts)
            raise AssertionError(f"{error}\n{logs}") from None
        took = round(time.monotonic() - started, 1)
        if took >= 0.5:
            self.seconds.append((what, took))
        assert found is not None
        return found

    def host(self, node_id: str) -> RemoteHost:
        """Return the host with that id."""
        return next(host for host in self.hosts if self.ids[host.name] == node_id)

    def others(self, *but: RemoteHost) -> list[RemoteHost]:
        """Return all hosts but these."""
        return [host for host in self.hosts if host not in but]

    def leader(self) -> tuple[RemoteHost, int]:
        """Return who leads and with which epoch, as soon as all say the same."""

        def agreed() -> dict[str, Any] | None:
            first, *rest = (host.get("/health")["leader"] for host in self.hosts)
            return first if all(one == first for one in rest) else None

        found = self.until(agreed, "one leader")
        return self.host(found["node_id"]), found["epoch"]

    def states(self, host: RemoteHost) -> dict[str, str]:
        """Return the states of all hosts, by name, as one says."""
        return {item["hostname"]: item["state"] for item in host.get("/api/v1/nodes")["items"]}

    def settled(self, hosts: Sequence[RemoteHost] | None = None) -> dict[str, Any]:
        """Wait until all that is wanted runs on these hosts (all), and they say the same of it; return it by name."""
        asked = self.hosts if hosts is None else hosts
        names = {host.name for host in asked}

        def whole() -> dict[str, Any] | None:
            if any({n for n, state in self.states(host).items() if state == "ready"} != names for host in asked):
                return None
            first, *rest = (where(host) for host in asked)
            if any(one != first for one in rest):
                return None
            nodes = {self.ids[host.name] for host in asked}
            if not all(item["node_id"] in nodes and runs(item) for item in first.values()):
                return None
            return {"": None} | first

        found = self.until(whole, f"a settled {', '.join(sorted(names))}")
        return {name: item for name, item in found.items() if name}

    def answer(self, instances: dict[str, Any], hosts: Sequence[RemoteHost] | None = None) -> None:
        """Wait until every instance answers at its addresses: at the IPv4 one on its host, at the other anywhere."""
        for name, item in instances.items():
            port, own = item["default_port"], self.host(item["node_id"])
            self.until(lambda own=own, url=f"http://{item['ipv4']}:{port}/": own.reaches(url), f"{name} by IPv4")  # type: ignore[misc]
            for host in self.hosts if hosts is None else hosts:
                url = f"http://[{item['ipv6']}]:{port}/"
                self.until(lambda host=host, url=url: host.reaches(url), f"{name} from {host.name}")  # type: ignore[misc]

    def own_only(self, instances: dict[str, Any]) -> None:
        """Wait until every host has what is its own and nothing else: machines and network devices."""
        for host in self.hosts:
            count = sum(item["node_id"] == self.ids[host.name] for item in instances.values())
            self.until(
                lambda host=host, count=count: len(host.machines()) == count == len(host.taps()),  # type: ignore[misc]
                f"{host.name} with {count} machines",
            )

    def whole(self) -> dict[str, Any]:
        """Wait until all is well on all hosts; return the instances."""
        instances = self.settled()
        self.answer(instances)
        self.own_only(instances)
        return instances

    @contextmanager
    def observed(self) -> Iterator[Observer]:
        """Ask all hosts meanwhile, and check their answers."""
        with Observer(self.hosts).watching() as observer:
            self.until(
                lambda: {one.host for one in observer.seen} == {host.name for host in self.hosts}, "first answers"
            )
            yield observer
        _log.info("answers: %s; seconds: %s", dict(observer.answers), self.seconds)
        self.seconds.clear()


def where(host: RemoteHost) -> dict[str, Any]:
    """Return what a host says of instances that shall run, as far as it is the same from everywhere, by name."""
    keys = ("id", "state", "node_id", "placement_id", "ipv4", "ipv6", "default_port", "generation")
    keys += ("observed_generation",)
    items = host.get("/api/v1/instances")["items"]
    return {item["name"]: {key: item[key] for key in keys} for item in items if item["desired_state"] == "running"}


def runs(item: dict[str, Any]) -> bool:
    return item["state"] == "running" and item["observed_generation"] == item["generation"]


def placements(instances: dict[str, Any]) -> dict[str, str]:
    return {name: item["placement_id"] for name, item in instances.items()}


@contextmanager
def started(hosts: Sequence[RemoteHost]) -> Iterator[None]:
    """Start hosts at once; at the end remove all instances, end the hosts in order, and look that nothing is left."""
    try:
        with ThreadPoolExecutor(len(hosts)) as pool:
            list(pool.map(lambda host: host.start(), hosts))
        yield
        for host in hosts:
            assert host.alive
        first = hosts[0]
        for group in first.get("/api/v1/groups")["items"]:
            answer = first.request("DELETE", f"/api/v1/groups/{group['id']}?confirm=true")
            assert answer.status < 300, answer
        for item in first.get("/api/v1/instances")["items"]:
            if item["group_id"] is not None:
                continue
            answer = first.request("DELETE", f"/api/v1/instances/{item['id']}?confirm=true&force=true")
            assert answer.status < 300, answer
        for host in hosts:
            until(lambda host=host: not host.machines() and not host.taps(), f"an empty {host.name}")  # type: ignore[misc]
        with ThreadPoolExecutor(len(hosts)) as pool:
            assert set(pool.map(lambda host: host.terminate(), hosts)) == {0}
        for host in hosts:
            assert processes_with(str(host.data)) == []
            assert host.config.tag not in host.network.run(host.name, "nft", "list", "ruleset")
    finally:
        for host in hosts:
            host.sweep()


@contextmanager
def directories(*names: str) -> Iterator[list[Path]]:
    """Yield directories that the database's own user can reach."""
    root = Path(tempfile.mkdtemp(prefix="zeitwork-e2e-", dir="/var/tmp"))
    root.chmod(0o755)
    try:
        paths = [root / name for name in names]
        for path in paths:
            path.mkdir()
        yield paths
    finally:
        shutil.rmtree(root, ignore_errors=True)


def populate(world: World, assets: Path, replicas: int) -> None:
    """Bring an image to all hosts and let a group of instances run, spread over them."""

    def add(host: RemoteHost) -> str:
        return str(host.cli("images", "add", str(assets / "hello.tar"), "--json")["id"])

    world.ids.update({host.name: host.get("/health")["node_id"] for host in world.hosts})
    # The same archive everywhere: every host has the first one's image, too, and an instance of it may run anywhere.
    world.image = add(world.hosts[0])
    with ThreadPoolExecutor(len(world.hosts)) as pool:
        list(pool.map(add, world.hosts[1:]))
    first = world.hosts[0]
    for item in first.get("/api/v1/nodes")["items"]:
        world.network.route(item["ipv6_prefix"], item["hostname"])
    # Only on hosts that are ready anything is put.
    world.until(lambda: list(world.states(first).values()) == ["ready"] * len(world.hosts), "all hosts")
    body = {"name": "web", "image_id": world.image, "default_port": 8080, "resources": {"vcpu": 1, "memory": 128}}
    answer = first.request("POST", "/api/v1/groups", body | {"replicas": replicas})
    assert answer.status == 201, answer
    spread = world.until(lambda: len(members) if (members := where(first)) else 0, "members")
    assert spread == replicas
