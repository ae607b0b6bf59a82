"""People: they ask for things through hosts, ask again when they get no answer, and remember what was accepted."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import TYPE_CHECKING
from uuid import UUID

import trio

from actors.model.errors import NotFound, Problem, Unavailable
from actors.model.resources import Resources
from actors.model.restart import RestartMode, RestartPolicy
from actors.model.states import InstanceDesired, NodeDesired
from tests.actors.vm.simulated import Life
from tests.simulation import plan as items
from tests.simulation.leaving import leave
from tests.simulation.links import address_of
from tests.simulation.reach import RemoteUnits
from tests.simulation.store import Store
from zeitwork.store.rows import NewGroup, NewInstance

if TYPE_CHECKING:
    from tests.simulation.world import World

#: Seconds that a request may take, how often it is repeated, and how long to wait before.
PATIENCE, TRIES, PAUSE = 20.0, 4, 2.0
#: Seconds that a host may take to leave: longer than what runs there takes to stop.
LEAVING = 200.0

#: What an instance is wanted to be after a request.
_MEANS = {
    "create": InstanceDesired.RUNNING,
    "start": InstanceDesired.RUNNING,
    "restart": InstanceDesired.RUNNING,
    "stop": InstanceDesired.STOPPED,
    "delete": InstanceDesired.TERMINATED,
}


class People:
    """Carries out the requests of a plan."""

    def __init__(self, world: World) -> None:
        self._world = world
        #: Requests that were answered well, as ``number kind subject``.
        self.accepted: dict[str, None] = {}
        self.refused = 0
        self.unanswered = 0

    async def ask(self, number: int, item: items.Request) -> None:
        """Ask, and again if there is no answer. ``number`` tells requests apart."""
        name = f"{number} {item.kind} {_subject(item)}"
        if isinstance(item, items.Scale | items.CreateGroup):
            name += f" {item.replicas}"
        elif isinstance(item, items.Replace) and item.force:
            name += " force"
        elif isinstance(item, items.Remove) and item.dead:
            name += " dead"
        for attempt in range(TRIES):
            via = self._via(item, attempt)
            if via is None:
                await trio.sleep(PAUSE)
                continue
            store = Store(RemoteUnits(self._world.server, via, Life(), name))
            try:
                with trio.fail_after(LEAVING if isinstance(item, items.Leave) else PATIENCE):
                    await self._carry_out(store, item, number)
            except (Unavailable, trio.TooSlowError):
                await trio.sleep(PAUSE)
            except Problem as problem:
                self.refused += 1
                self._world.trace("people", f"{name} refused: {problem}")
                return
            else:
                # A host that leaves asks by itself, in a name of its own.
                if not isinstance(item, items.Leave):
                    self.accepted[name] = None
                self._world.trace("people", f"{name} accepted")
                return
        self.unanswered += 1
        self._world.trace("people", f"{name} got no answer")

    def _via(self, item: items.Request, attempt: int) -> str | None:
        """Return a host whose process can be asked."""
        hosts = self._world.hosts
        first = int(getattr(item, "via", 0)) + attempt
        for number in range(len(hosts)):
            host = hosts[(first + number) % len(hosts)]
            if host.life is not None and host.belongs and not host.env.held:
                return host.name
        return None

    async def _carry_out(self, store: Store, item: items.Request, number: int) -> None:
        world = self._world
        match item:
            case items.Create():
                pinned = world.hosts[item.pinned % len(world.hosts)].node_id if item.pinned >= 0 else None
                await store.instances.create(
                    NewInstance(
                        image_id=world.image_id,
                        resources=Resources(item.vcpu, item.memory, 64),
                        default_port=80,
                        id=world.instance_id(item.instance),
                        name=f"i{item.instance}",
                        node_id=pinned,
                        stop_timeout=item.stop_timeout,
                        restart=RestartPolicy(RestartMode(item.restart)),
                        singleton=item.singleton,
                    )
                )
            case items.Stop(instance=instance, force=force):
                await store.instances.set_desired(world.instance_id(instance), InstanceDesired.STOPPED, force=force)
            case items.Start(instance=instance):
                await store.instances.set_desired(world.instance_id(instance), InstanceDesired.RUNNING)
            case items.Restart(instance=instance, force=force):
                await store.instances.restart(world.instance_id(instance), force=force)
            case items.Delete(instance=instance, force=force):
                await store.instances.delete(world.instance_id(instance), force=force)
            case items.Replace(instance=instance, force=force):
                await store.instances.replace(world.instance_id(instance), force=force)
            case items.CreateGroup(group=group, replicas=replicas):
                template = NewInstance(
                    image_id=world.image_id,
                    resources=Resources(item.vcpu, item.memory, 64),
                    default_port=80,
                    stop_timeout=5.0,
                    restart=RestartPolicy(RestartMode(item.restart)),
                )
                await store.groups.create(NewGroup(f"g{group}", template, replicas, world.group_id(group)))
            case items.Scale(group=group, replicas=replicas):
                await store.groups.scale(world.group_id(group), replicas)
            case items.DeleteGroup(group=group):
                await store.groups.delete(world.group_id(group))
            case items.Cordon(host=host) | items.Drain(host=host) | items.Uncordon(host=host):
                desired = {"cordon": NodeDesired.CORDONED, "drain": NodeDesired.DRAINING}
                await store.nodes.set_desired(self._node(host), desired.get(item.kind, NodeDesired.READY))
            case items.Remove(host=host, dead=dead):
                await store.nodes.delete(self._node(host), dead=dead)
            case items.Leave(host=host, force=force):
                await leave(world.hosts[host % len(world.hosts)], force=force)
            case items.Invite(host=host, timeout=timeout, wrong=wrong):
                machine = world.hosts[host % len(world.hosts)]
                await store.invitations.create(
                    machine.name,
                    ip_address=IPv4Address("192.0.2.1"),
                    address=str(address_of(machine.name)),
                    code="of another machine" if wrong else machine.code,
                    timeout=timeout,
                    id=world.guest_id(number),
                )
            case _:
                raise AssertionError(f"nobody can ask for {item}")

    def _node(self, host: int) -> UUID:
        node_id = self._world.hosts[host % len(self._world.hosts)].node_id
        if node_id is None:
            raise NotFound(f"there is no node h{host}")
        return node_id

    def wanted(self, committed: Iterable[tuple[float, str]]) -> dict[int, InstanceDesired]:
        """Return what each instance shall be after requests that were committed in this order."""
        found: dict[int, InstanceDesired] = {}
        for _, request in committed:
            _, kind, subject, *_ = request.split()
            if kind not in _MEANS:
                continue
            instance = int(subject)
            # Asking for what is there already, or for what was ended for good, changes nothing.
            if kind == "create" and instance in found:
                continue
            if found.get(instance) is not InstanceDesired.TERMINATED:
                found[instance] = _MEANS[kind]
        return found


def replicas_wanted(committed: Iterable[tuple[float, str]]) -> dict[int, int | None]:
    """Return how many members each group shall have after these requests; None when it shall be gone."""
    found: dict[int, int | None] = {}
    for _, request in committed:
        _, kind, subject, *rest = request.split()
        group = int(subject)
        if (kind == "create-group" and group not in found) or (kind == "scale" and found.get(group) is not None):
            found[group] = int(rest[0])
        elif kind == "delete-group" and group in found:
            found[group] = None
    return found


def forced(committed: Iterable[tuple[float, str]]) -> set[int]:
    """Return the instances of which somebody accepted that two may run."""
    parts = (request.split() for _, request in committed)
    return {int(part[2]) for part in parts if part[1] == "replace" and part[3:] == ["force"]}


def _subject(item: items.Request) -> int:
    return int(getattr(item, "instance", getattr(item, "group", getattr(item, "host", 0))))
