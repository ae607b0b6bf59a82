"""What people and hosts ask of both stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from typing import Any
from uuid import UUID

from actors.model.health import HealthCheck, HealthType
from actors.model.image import ImageConfig
from actors.model.resources import Capacity, Resources
from actors.model.scheduling import Requirements, Strategy, Taint
from actors.model.states import InstanceDesired, NodeDesired, NodeState, Volumes
from tests.zeitwork.store.contract.frame import NOBODY, UNKNOWN, Frame, Refs
from zeitwork.store.rows import HostRegistration, NewGroup, NewInstance

CAPACITIES = (
    Capacity(4, 4096, 0, 0, 4.0, 1.0, 24),
    Capacity(2, 1024, 1, 128, 1.0, 1.0, 32),
    Capacity(8, 2048, 0, 0, 1.0, 1.5, 0),
    Capacity(1, 256, 1, 0, 1.0, 1.0, 8),
)
#: Names, first hosts' networks and whether those have IPv6. The last one has two addresses to give, for one host.
REGIONS = (
    ("default", IPv6Network("fd00:1::/48"), IPv4Network("10.128.0.0/16"), True),
    ("far", IPv6Network("fd00:2::/48"), IPv4Network("10.9.0.0/21"), False),
    ("tiny", IPv6Network("fd00:3::/48"), IPv4Network("10.8.0.0/30"), True),
)
TAINTS = ((), (Taint("gpu"),), (Taint("team", "a"), Taint("gpu", "new")))
REQUIREMENTS = (
    Requirements(),
    Requirements(labels=(("zone", "a"),)),
    Requirements(region="far", tolerations=(Taint("gpu"),)),
    Requirements(hypervisor="qemu", architecture="x86_64", strategy=Strategy.SPREAD, tolerations=(Taint("team", "a"),)),
)
CHECKS = (HealthCheck(), HealthCheck(HealthType.HTTP, "/up", 8081, 5.0, 1.0, 3))
SIZES = (Resources(1, 100), Resources(2, 900), Resources(1, 4000), Resources(9, 64))
_CONFIG = ImageConfig(entrypoint=("/bin/app",), cmd=("serve",), env=("A=1",), user="app", exposed_ports=(8080,))


class People(Frame):
    """Hosts come and go; images, instances and groups are made, changed and ended."""

    # --- hosts

    def register(self, number: int, region: int = 0, zone: str = "a") -> None:
        name, v6, v4, ipv6 = REGIONS[region]
        host = HostRegistration(
            host_id=UUID(int=1000 + number),
            hostname=f"h{number}",
            boot_id=f"boot-{number}",
            region=name,
            region_v6=v6,
            region_v4=v4,
            ipv6=ipv6,
            version="1",
            labels={"zone": zone},
        )
        self.call(f"register({number}, {region}, {zone!r})", lambda store, refs: store.nodes.register(host))

    def capacity(self, node: int, which: int) -> None:
        self.call(
            f"capacity({node}, {which})",
            lambda store, refs: store.nodes.record_capacity(refs.pick("nodes", node), CAPACITIES[which]),
        )

    def state(self, node: int, state: NodeState, reason: str = "") -> None:
        self.call(
            f"state({node}, {state}, {reason!r})",
            lambda store, refs: store.nodes.set_state(refs.pick("nodes", node), state, reason),
        )

    def desire_node(self, node: int, desired: NodeDesired) -> None:
        self.call(
            f"desire_node({node}, {desired})",
            lambda store, refs: store.nodes.set_desired(refs.pick("nodes", node), desired),
        )

    def delete_node(self, node: int, *, dead: bool = False) -> None:
        self.call(
            f"delete_node({node}, dead={dead})",
            lambda store, refs: store.nodes.delete(refs.pick("nodes", node), dead=dead),
        )

    def leave(self, node: int, *, force: bool = False) -> None:
        self.call(
            f"leave({node}, force={force})",
            lambda store, refs: store.nodes.leave(refs.pick("nodes", node), force=force),
        )

    def close_node(self, node: int, reason: str) -> None:
        self.call(
            f"close_node({node}, {reason!r})",
            lambda store, refs: store.nodes.record_closed(refs.pick("nodes", node), reason),
        )

    def taints(self, node: int, which: int) -> None:
        self.call(
            f"taints({node}, {which})",
            lambda store, refs: store.nodes.set_taints(refs.pick("nodes", node), TAINTS[which]),
        )

    def condition(self, node: int, hypervisor: str | None, pressure: float) -> None:
        self.call(
            f"condition({node}, {hypervisor!r}, {pressure})",
            lambda store, refs: store.nodes.record_condition(refs.pick("nodes", node), hypervisor, pressure),
        )

    def heartbeat(self, node: int, late: int = 0) -> None:
        """Let a node's process give a sign of life, or with ``late`` one that was started before it."""

        async def call(store: Any, refs: Refs) -> Any:
            node_id = refs.pick("nodes", node)
            generation = 1 if node_id == NOBODY else (await store.nodes.get(node_id)).generation - late
            return await store.presence.heartbeat(node_id, generation)

        self.call(f"heartbeat({node}, {late})", call)

    # --- images

    def image(self, number: int, upload: int | None = None) -> None:
        """Ask for an image, or have one that was uploaded to a host; one that was asked for is the same."""

        def call(store: Any, refs: Refs) -> Any:
            image_id = UUID(int=(1 << 70) + number)
            if upload is None:
                return store.images.create("app:1", id=image_id)
            return store.images.create("archive:app", id=image_id, node_id=refs.pick("nodes", upload))

        if upload != UNKNOWN:
            self.call(f"image({number}, {upload})", call)

    def cached(self, node: int, images: Sequence[int]) -> None:
        """Let a host tell which images it has."""
        digests = frozenset(f"sha256:{image}" for image in images)
        self.call(
            f"cached({node}, {images})",
            lambda store, refs: store.images.record_cached(refs.pick("nodes", node), digests),
        )

    def image_ready(self, image: int) -> None:
        digest = f"sha256:{image}"
        self.call(
            f"image_ready({image})",
            lambda store, refs: store.images.ready(refs.pick("images", image), digest, _CONFIG, 1_000_000),
        )

    def image_failed(self, image: int) -> None:
        self.call(
            f"image_failed({image})",
            lambda store, refs: store.images.failed(refs.pick("images", image), "no such tag", "image", "choose one"),
        )

    # --- instances

    def create(
        self,
        *,
        image: int = 0,
        size: int = 0,
        name: int | None = None,
        pin: int | None = None,
        priority: int = 50,
        singleton: bool = False,
        requirements: int = 0,
        check: int = 0,
        again: int | None = None,
    ) -> None:
        """Create an instance, or with ``again`` the one that there is once more."""

        def call(store: Any, refs: Refs) -> Any:
            new = _new(refs, image, size, priority, singleton, requirements, check)
            return store.instances.create(
                replace(
                    new,
                    name=None if name is None else ("web-0", "db", "web-1")[name],
                    node_id=None if pin is None else refs.pick("nodes", pin),
                    id=None if again is None or not refs._ids.lists["instances"] else refs.pick("instances", again),
                )
            )

        self.call(
            f"create(image={image}, size={size}, name={name}, pin={pin}, priority={priority}, singleton={singleton}, "
            f"requirements={requirements}, check={check}, again={again})",
            call,
        )

    def desire(
        self,
        instance: int,
        desired: InstanceDesired,
        force: bool = False,
        wait: float | None = None,
        volumes: Volumes = Volumes.KEEP,
    ) -> None:
        if desired is not InstanceDesired.TERMINATED:
            volumes = Volumes.KEEP
        self.call(
            f"desire({instance}, {desired}, {force}, {wait}, {volumes})",
            lambda store, refs: store.instances.set_desired(
                refs.pick("instances", instance), desired, force=force, stop_timeout=wait, volumes=volumes
            ),
        )

    def restart(self, instance: int, force: bool = False, wait: float | None = None) -> None:
        self.call(
            f"restart({instance}, {force}, {wait})",
            lambda store, refs: store.instances.restart(
                refs.pick("instances", instance), force=force, stop_timeout=wait
            ),
        )

    def pause(self, instance: int) -> None:
        self.call(f"pause({instance})", lambda store, refs: store.instances.pause(refs.pick("instances", instance)))

    def resume(self, instance: int) -> None:
        self.call(f"resume({instance})", lambda store, refs: store.instances.resume(refs.pick("instances", instance)))

    def replace(self, instance: int, force: bool = False) -> None:
        self.call(
            f"replace({instance}, {force})",
            lambda store, refs: store.instances.replace(refs.pick("instances", instance), force=force),
        )

    # --- groups

    def group(self, name: int, replicas: int, *, image: int = 0, size: int = 0, singleton: bool = False) -> None:
        def call(store: Any, refs: Refs) -> Any:
            template = _new(refs, image, size, 50, singleton, 0, 0)
            return store.groups.create(NewGroup(("web", "api")[name], template, replicas))

        self.call(f"group({name}, {replicas}, image={image}, size={size}, singleton={singleton})", call)

    def scale(self, group: int, replicas: int) -> None:
        self.call(
            f"scale({group}, {replicas})", lambda store, refs: store.groups.scale(refs.pick("groups", group), replicas)
        )

    def delete_group(self, group: int) -> None:
        self.call(f"delete_group({group})", lambda store, refs: store.groups.delete(refs.pick("groups", group)))


def _new(
    refs: Refs, image: int, size: int, priority: int, singleton: bool, requirements: int, check: int
) -> NewInstance:
    return NewInstance(
        refs.pick("images", image),
        SIZES[size],
        8080,
        environment={"A": "1"},
        command=("run",),
        priority=priority,
        singleton=singleton,
        requirements=REQUIREMENTS[requirements],
        health=CHECKS[check],
    )
