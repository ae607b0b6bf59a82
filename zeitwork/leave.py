"""How a host leaves its cluster: by itself while it runs, or what is left of that once it can't."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import structlog
import trio

from actors.host.messages import NAME as HOST
from actors.host.messages import StopAll, Vms, Wake
from actors.model.errors import Conflict, Failed, Problem
from actors.model.states import NodeDesired
from actors.tap.links import owned_taps
from actors.tap.network import remove_leftovers
from actors.vm.leftovers import VmLeftovers
from actors.vm.settings import cgroup_parent
from runtime import ActorError
from zeitwork import ownership
from zeitwork.config import Config
from zeitwork.store import Store

if TYPE_CHECKING:
    from zeitwork.tree import RunningHost

#: Seconds for virtual machines to stop, and for what they leave to be removed.
STOP_DEADLINE, REMOVE_DEADLINE = 120.0, 30.0
#: Seconds to write that it leaves.
WRITE_DEADLINE = 30.0

_log = structlog.get_logger().bind(part="leave")


def has_joined(config: Config) -> bool:
    """Tell whether there is something that this host could leave: a cluster that goes on without it."""
    return config.database_url is not None or (config.data_dir / "trust" / "cluster.json").exists()


async def leave(config: Config, store: Store, host: RunningHost, *, force: bool) -> None:
    """Take this host out of its cluster; its process ends soon after. Harmless when it is leaving already.

    Raises `Conflict` while instances are here, but with ``force``: they are stopped then and run elsewhere. Also for a
    host that carries the cluster's database. What a failure leaves is a host that has not left.
    """
    if host.left:
        return
    if not has_joined(config):
        raise Conflict(
            "this host has not joined a cluster: it carries the database",
            code="not-a-member",
            fix="to give it up, remove the other hosts and its instances, stop it, and remove its data directory",
        )
    if force:
        await _empty(store, host)
    # Both or neither, even if whoever asked goes away meanwhile.
    with trio.fail_after(WRITE_DEADLINE, shield=True):
        await store.nodes.leave(host.node_id, force=force)
        host.leave(partial(forget, config.data_dir))
    _log.info("this host has left the cluster", node=str(host.node_id))
    try:
        await removed(host)
    finally:
        host.lost.set()


async def _empty(store: Store, host: RunningHost) -> None:
    before = (await store.nodes.get(host.node_id)).desired
    await store.nodes.set_desired(host.node_id, NodeDesired.CORDONED)
    try:
        stopped = await host.system.name(HOST).ask(StopAll(STOP_DEADLINE), timeout=STOP_DEADLINE + 5)
    except ActorError as error:
        await store.nodes.set_desired(host.node_id, before)
        raise Failed(f"what runs here could not be stopped: {error}", fix="see the log, and try again") from error
    if not stopped:
        # They are not started again before the process is: what was to be alone may still run.
        raise Failed(
            f"not all that runs here has stopped within {STOP_DEADLINE:g} s",
            code="not-stopped",
            fix="try again; or zeitwork rm --force what is stuck. Until then this host is cordoned",
        )


def removed_here() -> Conflict:
    """Return what is said on a host that is no longer of its cluster, and has not said so itself."""
    return Conflict(
        "this host was removed from the cluster",
        code="removed",
        fix="zeitwork leave --force here makes it one that can join anew",
    )


async def removed(host: RunningHost) -> None:
    """Wait for what the database calls removed to be removed here, too: disks of what was stopped before as well."""
    with trio.move_on_after(REMOVE_DEADLINE):
        try:
            host.system.name(HOST).tell(Wake("this host is no more"))
            while True:
                view = await host.system.name(HOST).ask(Vms(), timeout=5)
                if not view.vms and view.remains == 0:
                    return
                await trio.sleep(0.2)
        except ActorError:
            return
    _log.warning("something of the instances that ran here stays", fix="zeitwork leave --force once more")


def forget(data: Path) -> None:
    """Remove what makes a machine the host of a cluster; images stay. Raises `OSError`."""
    # The id last: without the others it is a new host's, but they without it would be nobody's.
    for name in ("trust/cluster.json", "trust/advertise", "trust/host.pem", "trust/joining.pem", "epoch", "host-id"):
        (data / name).unlink(missing_ok=True)
    trust = data / "trust"
    if trust.is_dir() and not any(trust.iterdir()):
        trust.rmdir()


async def forget_cluster(config: Config) -> int:
    """Make a machine whose host can't leave by itself any more one that can join anew; return how many VMs it ended.

    For one that was removed, or whose cluster is gone. All that it still runs is ended and removed. Raises `Conflict`
    while its process runs, or when it is a host with a database of its own, and `Failed` when something stays.
    """
    with ownership.hold(config.data_dir):
        if (config.data_dir / "postgres").exists():
            raise Conflict(
                "this host carries a database: leaving would lose it",
                code="not-a-member",
                fix="remove its data directory",
            )
        ended = await _end_all(config)
        try:
            forget(config.data_dir)
        except OSError as error:
            raise Failed(f"{error.filename} can't be removed: {error.strerror}", field="data_dir") from None
        return ended


async def _end_all(config: Config) -> int:
    async def keep(placement_id: UUID, name: str) -> None:
        """Leave the TAP to what removes the whole network below."""

    async def taps() -> dict[UUID, str]:
        found = await trio.to_thread.run_sync(owned_taps, config.tag)
        return {placement: tap.name for placement, tap in found.items()}

    leftovers = VmLeftovers(config.paths, cgroup_parent(config.tag), keep, taps)
    ended = 0
    try:
        for leftover in await leftovers.scan(()):
            await leftovers.destroy(leftover)
            ended += leftover.pid is not None
        await remove_leftovers(config.tag, config.data_dir / "sysctl.json")
    except (OSError, Problem) as error:
        raise Failed(
            f"not all that ran here could be removed: {error}", fix="see what holds it, and try again"
        ) from error
    return ended
