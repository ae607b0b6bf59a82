"""Commands from the leader to another host, over real links and with the truth in real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import trio

import actors.host.actor
from actors.commands.messages import NAME as COMMANDS
from actors.commands.messages import Command, CommandKind
from actors.host.messages import NAME as HOST
from actors.host.messages import StopAll
from actors.model.records import Placement
from actors.model.states import InstanceDesired, InstanceState, PlacementState
from runtime.lease import Term
from runtime.links.errors import RemoteProblem, StaleEpoch
from runtime.links.remote import RemoteRef
from tests.ports import free_port
from tests.runtime.links.hosts import SOON, until
from tests.zeitwork.sites import Site, up
from tests.zeitwork.store.world import instance, leading, place, ready_image, ready_node
from tests.zeitwork.trust.secured import Signer, issue, transport
from zeitwork.store import Store
from zeitwork.store.rows import InstanceRow


@pytest.fixture(autouse=True)
def only_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """No host looks by itself after its start."""
    monkeypatch.setattr(actors.host.actor, "SLOW_TIMER", 3600.0)


class Cluster:
    """A leader's host and another one, which are not up yet."""

    def __init__(self, store: Store, leader: Site, other: Site, row: InstanceRow) -> None:
        self.store, self.leader, self.other, self.row = store, leader, other, row

    async def state(self) -> InstanceState:
        return (await self.store.instances.get(self.row.id)).state

    async def becomes(self, state: InstanceState) -> InstanceRow:
        """Wait until the instance is that."""
        with trio.fail_after(SOON):
            while (found := await self.store.instances.get(self.row.id)).state is not state:  # noqa: ASYNC110
                await trio.sleep(0.02)
        return found

    async def place(self) -> Placement:
        return await place(self.store, self.row, self.other.node)

    async def steps(self) -> list[tuple[str, str]]:
        """Return what the instance's log says of commands."""
        events = await self.store.instances.events(self.row.id, limit=1000)
        return [(one.what, one.data["command"]) for one in events if one.what.startswith("command.")]

    async def noted(self, *steps: tuple[str, str]) -> None:
        """Wait until the log says that of commands, and nothing else."""
        with trio.move_on_after(SOON):
            while await self.steps() != list(steps):  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert await self.steps() == list(steps)


@asynccontextmanager
async def cluster(store: Store, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with trio.open_nursery() as guests:
        sites = []
        for name in ("leader", "other"):
            node = await ready_node(store, hostname=name)
            (tmp_path / name).mkdir()
            sites.append(Site(node, tmp_path / name, guests))
        row = await instance(store, await ready_image(store, sites[0].node), stop_timeout=5.0)
        yield Cluster(store, sites[0], sites[1], row)
        guests.cancel_scope.cancel()


def sent(*kinds: str) -> tuple[tuple[str, str], ...]:
    return tuple((f"command.{step}", kind) for kind in kinds for step in ("sent", "taken"))


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "TLS"])
async def test_an_instance_is_made_and_deleted_on_another_host(store: Store, tmp_path: Path, secured: bool) -> None:
    signer = Signer()

    def way(site: Site) -> object:
        return transport(issue(tmp_path, site.node.id.int, signer)) if secured else None

    async with cluster(store, tmp_path) as world:
        leader, other = world.leader, world.other
        async with up(leader, store, way(leader)), up(other, store, way(other)):  # type: ignore[arg-type]
            await leader.want(other)
            await leader.lead(store, await leading(store))
            placement = await world.place()
            leader.hint()
            await world.becomes(InstanceState.RUNNING)
            await world.noted(*sent("create"))
            assert other.held() >= {"monitor", "TAP", "disk", "cgroup"}
            await store.instances.delete(world.row.id)
            leader.hint()
            await world.becomes(InstanceState.TERMINATED)
            await world.noted(*sent("create", "delete"))
            assert other.held() == set()
            assert (await store.placements.get(placement.id)).state is PlacementState.REMOVED
            # Its host has kept the epoch of the leader that it obeyed.
            assert (other.directory / "epoch").read_text() == "1\n"
            events = await store.instances.events(world.row.id, limit=1000)
            (taken,) = [one for one in events if one.what == "command.taken" and one.data["command"] == "delete"]
            assert taken.data | {"reason": ""} == {
                "command": "delete",
                "placement_id": str(placement.id),
                "node_id": str(other.node.id),
                "generation": 1,
                "epoch": 1,
                "attempts": 1,
                "reason": "",
            }


async def test_a_stop_and_the_next_start_are_told_too_and_force_at_once(store: Store, tmp_path: Path) -> None:
    async with cluster(store, tmp_path) as world, up(world.leader, store), up(world.other, store):
        await world.leader.want(world.other)
        await world.leader.lead(store, await leading(store))
        placement = await world.place()
        world.leader.hint()
        await world.becomes(InstanceState.RUNNING)
        machine = world.other.machines[placement.id]
        machine.deaf = True
        await store.instances.set_desired(world.row.id, InstanceDesired.STOPPED, stop_timeout=600.0)
        world.leader.hint()
        await world.becomes(InstanceState.STOPPING)
        await world.noted(*sent("create", "stop"))
        # The guest hears nothing, and its time is long. Whoever forces it now does not wait for that.
        await store.instances.set_desired(world.row.id, InstanceDesired.STOPPED, force=True)
        world.leader.hint()
        await world.becomes(InstanceState.STOPPED)
        await world.noted(*sent("create", "stop", "stop"))
        assert world.other.held() == set()
        world.row = await store.instances.set_desired(world.row.id, InstanceDesired.RUNNING)
        await world.place()
        world.leader.hint()
        await world.becomes(InstanceState.RUNNING)


async def test_what_a_host_is_to_be_told_waits_while_it_is_not_there(store: Store, tmp_path: Path) -> None:
    async with cluster(store, tmp_path) as world:
        leader, other, port = world.leader, world.other, free_port()
        async with up(leader, store):
            async with up(other, store, port=port):
                await leader.want(other)
                await leader.lead(store, await leading(store))
            await world.place()
            leader.hint()
            await world.noted(("command.sent", "create"), ("command.unreachable", "create"))
            # It is tried again and again, and not noted again.
            await trio.sleep(2.0)
            assert len(await world.steps()) == 2
            assert await world.state() is InstanceState.STARTING
            other.node = await store.nodes.get(other.node.id)
            async with up(other, store, port=port):
                await world.becomes(InstanceState.RUNNING)


async def test_a_link_is_made_for_a_command_where_there_is_none(store: Store, tmp_path: Path) -> None:
    """Hosts keep links to a few others only."""
    async with cluster(store, tmp_path) as world, up(world.leader, store), up(world.other, store):
        assert world.leader.board is not None
        world.leader.board.learn(world.other.node.id, world.other.address)
        assert world.leader.board.linked() == []
        await world.leader.lead(store, await leading(store))
        await world.place()
        world.leader.hint()
        await world.becomes(InstanceState.RUNNING)
        await world.noted(*sent("create"))


async def test_a_host_that_is_down_is_not_told_anything(store: Store, tmp_path: Path) -> None:
    async with cluster(store, tmp_path) as world, up(world.leader, store), up(world.other, store):
        await world.leader.want(world.other)
        term = await leading(store)
        await world.place()
        (beat,) = [one for one in await store.presence.beats() if one.node_id == world.other.node.id]
        assert await store.presence.mark_down(beat, "silent", term)
        (order,) = await store.commands.outstanding(world.leader.node.id, term, 10)
        assert order.away
        # Only now: the first look of all must find the host down already.
        await world.leader.lead(store, term)
        await trio.sleep(0.5)
        assert await world.steps() == []
        await store.presence.heartbeat(world.other.node.id, world.other.node.generation)
        world.leader.hint()
        await world.becomes(InstanceState.RUNNING)
        await world.noted(*sent("create"))


async def test_the_next_leader_says_what_the_one_before_did_not_come_to_say(store: Store, tmp_path: Path) -> None:
    async with cluster(store, tmp_path) as world:
        leader, other, port = world.leader, world.other, free_port()
        async with up(other, store, port=port):
            old = await leading(store)
            async with up(leader, store):
                # It has no link to the other, so nothing gets there, and then it is gone.
                office = await leader.lead(store, old)
                await world.place()
                leader.hint()
                await world.noted(("command.sent", "create"), ("command.unreachable", "create"))
                await elect(store, epoch := old.epoch + 1)
                # What it does from now on is refused, and it learns of that by the first refusal.
                leader.hint()
                await until(lambda: not stands(office.term))
            async with up(leader, store):
                await leader.want(other)
                await leader.lead(store, Term(epoch, old.boot, old.ttl))
                await world.becomes(InstanceState.RUNNING)
                await world.noted(("command.sent", "create"), ("command.unreachable", "create"), *sent("create"))
                # What the old one sent and what comes only now does nothing.
                late = command(world, CommandKind.DELETE, epoch=old.epoch)
                with pytest.raises(StaleEpoch, match="epoch 2 has begun"):
                    await ask(world, late)
                # Nor after a new start of that host: it keeps the epoch.
            other.life.dead = True
        other.node = await store.nodes.get(other.node.id)
        async with up(leader, store), up(other, store, port=port):
            await leader.want(other)
            with pytest.raises(StaleEpoch):
                await ask(world, late)
        assert (await store.instances.get(world.row.id)).desired is InstanceDesired.RUNNING


def stands(term: Callable[[], Term]) -> bool:
    try:
        term()
    except Exception:
        return False
    return True


async def elect(store: Store, epoch: int) -> None:
    """Let the next term begin."""
    await store.units.run(
        lambda cursor: cursor.execute("update leadership set epoch = %s", (epoch,)), name="test.elect"
    )


def command(
    world: Cluster, kind: CommandKind, *, epoch: int = 1, generation: int = 1, node: UUID | None = None
) -> Command:
    node_id = node or world.other.node.id
    return Command(kind, world.row.id, uuid4(), node_id, generation, epoch, SOON)


async def ask(world: Cluster, what: Command) -> object:
    assert world.leader.board is not None
    return await RemoteRef(world.leader.board, world.other.node.id, COMMANDS).ask(what, timeout=SOON)


async def test_a_command_is_only_a_hint(store: Store, tmp_path: Path) -> None:
    """Whatever comes, a host does what Postgres says."""
    async with cluster(store, tmp_path) as world, up(world.leader, store), up(world.other, store):
        await world.leader.want(world.other)
        placement = await world.place()
        for kind in (CommandKind.CREATE, CommandKind.STOP, CommandKind.DELETE, CommandKind.CREATE):
            await ask(world, command(world, kind))
        await world.becomes(InstanceState.RUNNING)
        await ask(world, command(world, CommandKind.DELETE))
        assert world.other.machines[placement.id].running
        assert await world.state() is InstanceState.RUNNING
        late = await ask(world, command(world, CommandKind.CREATE))
        assert late.superseded  # type: ignore[attr-defined]
        with pytest.raises(RemoteProblem) as refused:
            await ask(world, command(world, CommandKind.CREATE, generation=9, node=world.leader.node.id))
        assert refused.value.code == "wrong-host"


@pytest.mark.parametrize("job", ["image", "template", "disk", "tap", "intent", "jail", "boot"])
async def test_of_a_start_that_fails_in_the_middle_nothing_stays(store: Store, tmp_path: Path, job: str) -> None:
    async with cluster(store, tmp_path) as world, up(world.leader, store), up(world.other, store):
        await world.leader.want(world.other)
        world.other.fails = job
        await world.leader.lead(store, await leading(store))
        placement = await world.place()
        world.leader.hint()
        # Its policy is to try again: the addresses stay, nothing else does, and the reason is told.
        found = await world.becomes(InstanceState.CRASH_LOOP)
        assert "failed" in found.reason
        await until(lambda: not world.other.held() - {"disk", "TAP", "rules"})
        await store.instances.delete(world.row.id)
        world.leader.hint()
        await world.becomes(InstanceState.TERMINATED)
        assert world.other.held() == set()
        assert world.other.machines[placement.id].intent is None
        usage = await store.leases.usage(world.other.node.id)
        assert {pool.leased for pool in usage} == {0}


async def test_of_a_host_that_dies_in_the_middle_of_a_start_nothing_stays(store: Store, tmp_path: Path) -> None:
    async with cluster(store, tmp_path) as world, up(world.leader, store):
        leader, other, port = world.leader, world.other, free_port()
        async with up(other, store, port=port):
            await leader.want(other)
            await leader.lead(store, await leading(store))
            placement = await world.place()
            leader.hint()
            await other.spawned.wait()
            other.life.dead = True
        machine = other.machines[placement.id]
        assert machine.held()
        # While it is away its instance is deleted.
        await store.instances.delete(world.row.id)
        other.node = await store.nodes.get(other.node.id)
        async with up(other, store, port=port):
            leader.hint()
            await world.becomes(InstanceState.TERMINATED)
            assert machine.held() == set()


async def test_a_host_that_stops_all_takes_nothing_new(store: Store, tmp_path: Path) -> None:
    async with cluster(store, tmp_path) as world, up(world.leader, store), up(world.other, store):
        assert world.other.system is not None
        await world.leader.want(world.other)
        assert await world.other.system.name(HOST).ask(StopAll(5.0), timeout=SOON)
        await world.leader.lead(store, await leading(store))
        await world.place()
        world.leader.hint()
        await world.noted(("command.sent", "create"), ("command.refused", "create"))
        assert await world.state() is InstanceState.STARTING
