"""The database of a simulation, and doubles of the actors beside those that are tested; see `simulated`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from uuid import UUID

import trio

from actors.images.messages import EnsureRoot, Fetching
from actors.model.errors import Failed, NotFound, Unavailable
from actors.model.image import ImageConfig, RootImage
from actors.model.network import Lease
from actors.model.records import Observation, Placement, SnapshotMade
from actors.model.resources import Resources
from actors.model.restart import NEVER, RestartPolicy
from actors.model.states import PlacementState
from actors.tap.messages import TapDevice, TapDown, TapUp
from runtime import Actor, Message
from tests.actors.vm.simulated import ID, NODE, Life, Machine


class NoSnapshots:
    """`actors.host.ports.Snapshots` and `actors.host.store.SnapshotStore` of a host that has none."""

    async def scan(self) -> tuple[UUID, ...]:
        return ()

    async def destroy(self, snapshot: UUID) -> None:
        raise AssertionError

    async def taken(self, snapshot_id: UUID, made: SnapshotMade) -> bool:
        raise AssertionError

    async def failed(self, snapshot_id: UUID, reason: str) -> None:
        raise AssertionError

    async def deleting(self, node_id: UUID, snapshot_ids: Collection[UUID]) -> set[UUID]:
        return set()

    async def removed(self, snapshot_id: UUID) -> None:
        raise AssertionError


@dataclass
class Database:
    """`actors.host.store.PlacementStore`. Of ``deaf`` writes the answer is lost: they are done, and nobody hears it."""

    machine: Machine
    deaf: set[int] = field(default_factory=set)
    row: Placement = field(
        default_factory=lambda: Placement(
            id=ID,
            instance_id=UUID(int=3),
            generation=1,
            node_id=NODE,
            wanted=True,
            image_id=UUID(int=4),
            image_digest="sha256:model",
            image_config=ImageConfig(entrypoint=("/app",)),
            resources=Resources(vcpu=1, memory=128, disk=64),
            lease=Lease(v6=IPv6Address("fd7a:77::2"), v4=IPv4Address("172.31.0.2")),
            default_port=80,
            state=PlacementState.ASSIGNED,
            hostname="model",
            stop_timeout=5.0,
            restart=RestartPolicy(NEVER.mode),
        )
    )
    told: list[Observation] = field(default_factory=list)
    reasons: list[tuple[PlacementState, str]] = field(default_factory=list)
    writes: int = 0

    def of(self, life: Life) -> Connection:
        return Connection(self, life)

    def observe(self, expected: Collection[PlacementState], seen: Observation) -> bool:
        before = self.row.state
        if before not in expected or before is PlacementState.REMOVED:
            return before is seen.state
        if before is not seen.state:
            self.told.append(seen)
            self._judge(seen)
        elif seen.reason:
            self.reasons.append((before, seen.reason))
        self.row = replace(
            self.row,
            state=seen.state,
            boot_id=seen.boot_id or self.row.boot_id,
            failures=self.row.failures if seen.failures is None else seen.failures,
            next_try_at=seen.next_try_at,
        )
        return True

    def _judge(self, seen: Observation) -> None:
        """What is told is so."""
        held = self.machine.held()
        match seen.state:
            case PlacementState.REMOVED:
                assert not held, f"told as removed with {held}"
            case PlacementState.ASSIGNED:
                assert held <= {"disk"}, f"told as parked with {held}"
            case PlacementState.WAITING:
                assert held <= {"disk", "TAP", "rules"}, f"told as waiting with {held}"
            case _:
                pass


@dataclass
class Connection:
    """The database as one life reaches it."""

    database: Database
    life: Life

    async def placements(self, node_id: UUID) -> list[Placement]:
        await self._travel()
        row = self.database.row
        return [] if row.state is PlacementState.REMOVED else [row]

    async def tombstones(self, node_id: UUID, placement_ids: Collection[UUID]) -> set[UUID]:
        await self._travel()
        return {ID} & set(placement_ids) if self.database.row.state is PlacementState.REMOVED else set()

    async def observe(self, placement_id: UUID, expected: Collection[PlacementState], observation: Observation) -> bool:
        await self._travel()
        if self.life.dead:
            raise Unavailable("this life is over")
        accepted = self.database.observe(expected, observation)
        self.database.writes += 1
        if self.database.writes in self.database.deaf:
            raise Unavailable("the connection was lost")
        await self._travel()
        return accepted

    async def _travel(self) -> None:
        await trio.lowlevel.checkpoint()


class Taps(Actor):
    """The TAP actor of the placement."""

    def __init__(self, life: Life, machine: Machine) -> None:
        self._life, self._machine = life, machine

    async def receive(self, message: Message) -> None:
        if isinstance(message, TapUp):
            if self._machine.fails == "tap":
                self.ctx.fail(Failed("tap failed"))
                return
            await self._do(lambda: setattr(self._machine, "tap", True))
            await self._do(lambda: setattr(self._machine, "rules", True))
            self.ctx.reply(TapDevice("zwmodel", "02:00:00:00:00:01"))
        else:
            assert isinstance(message, TapDown)
            if self._machine.running and not self._life.dead:
                self._machine.wrong("its TAP is dropped under a running monitor")
            await self._do(lambda: setattr(self._machine, "tap", False))
            await self._do(lambda: setattr(self._machine, "rules", False))
            self.ctx.reply(None)

    async def _do(self, change: Callable[[], None]) -> None:
        await trio.lowlevel.checkpoint()
        await self._life.going_on()
        if not self._life.dead:
            change()


class Images(Actor):
    """The images actor, with one image."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def receive(self, message: Message) -> None:
        assert isinstance(message, EnsureRoot)
        await trio.lowlevel.checkpoint()
        if self._machine.fetching:
            self._machine.fetching -= 1
            await trio.sleep(1.0)
            self.ctx.reply(Fetching(f"fetching its image: {100 - self._machine.fetching // 10 * 10} %"))
        elif self._machine.fails == "image":
            self.ctx.fail(NotFound("image failed"))
        else:
            self.ctx.reply(RootImage("sha256:model", "/nowhere/root", ImageConfig()))
