"""A real control endpoint over a real store, on a free port and a unix socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import httpx
import pytest
import trio
from starlette.applications import Starlette

from actors.model.image import ImageConfig
from actors.model.paths import HostPaths
from actors.model.records import Observation
from actors.model.resources import Capacity
from actors.model.states import NodeState, PlacementState
from actors.scheduler.plan import evaluate
from actors.scheduler.store import GroupChange
from runtime.system import System
from tests.zeitwork.store.world import apply_plan, leading
from zeitwork.api.app import build_app
from zeitwork.api.deps import ApiDeps, fresh_id
from zeitwork.api.server import Listening, serve
from zeitwork.members import Members
from zeitwork.store import Store
from zeitwork.store.rows import HostRegistration, NodeRow

CAPACITY = Capacity(
    vcpu_total=4,
    memory_total=4096,
    vcpu_reserved=0,
    memory_reserved=512,
    vcpu_overcommit=2.0,
    memory_overcommit=1.0,
    memory_overhead=64,
)


@dataclass
class World:
    """One host's endpoint, its store, and what the actors would do, done by hand."""

    app: Starlette
    deps: ApiDeps
    store: Store
    node: NodeRow
    listening: Listening
    client: httpx.AsyncClient
    consoles: Path

    async def image(self, source: str = "docker.io/library/app:1") -> UUID:
        """Make a ready image."""
        row = await self.store.images.create(source)
        await self.store.images.claim_pending(self.node.id)
        await self.store.images.ready(row.id, f"sha256:{row.id.hex * 2}", ImageConfig(cmd=("/app",)), 4096)
        return row.id

    async def create(self, **changes: object) -> dict[str, object]:
        """Create an instance through the API and return it."""
        body = {"image_id": str(await self.image()), "resources": {"vcpu": 1, "memory": 128}, "default_port": 80}
        answer = await self.client.post("/api/v1/instances", json={**body, **changes})
        assert answer.status_code == 201, answer.text
        found: dict[str, object] = answer.json()
        return found

    async def place(self) -> list[UUID]:
        """Do what the scheduler does; return this host's placements."""
        await apply_plan(
            self.store, evaluate(await self.store.scheduling.pending(), await self.store.scheduling.nodes())
        )
        return [placement.id for placement in await self.store.placements.placements(self.node.id)]

    async def reconcile(self) -> None:
        """Do what the leader does for groups: create members that lack, end those that are too many."""
        for view in await self.store.scheduling.groups():
            wanted = 0 if view.deleted else view.replicas
            have = {member.slot: member.id for member in view.members}
            change = GroupChange(
                view.id,
                view.generation,
                create=tuple(slot for slot in range(wanted) if slot not in have),
                terminate=tuple(identifier for slot, identifier in have.items() if slot >= wanted),
                gone=view.deleted and not have,
            )
            await self.store.scheduling.apply_groups((change,), await leading(self.store))

    async def observe(self, placement: UUID, state: PlacementState) -> None:
        """Do what the host does when it sees a change."""
        assert await self.store.placements.observe(placement, list(PlacementState), Observation(state))

    def console(self, placement: UUID) -> Path:
        """Return the file that a placement's guest writes to."""
        return self.consoles / f"{placement}.log"


@pytest.fixture
async def world(store: Store, tmp_path: Path) -> AsyncIterator[World]:
    node = await store.nodes.register(HostRegistration(fresh_id(), "host-a", "boot-1", version="0.1.0"))
    await store.nodes.record_capacity(node.id, CAPACITY)
    node = await store.nodes.set_state(node.id, NodeState.READY)
    paths = HostPaths(tmp_path / "data", tmp_path / "run")
    paths.run.mkdir()
    consoles = tmp_path / "consoles"
    consoles.mkdir()
    async with System() as system:
        deps = ApiDeps(
            store,
            system,
            paths,
            node.id,
            "0.1.0",
            lambda placement: consoles / f"{placement}.log",
            members=Members(node.id, node.generation, system.env.monotonic, hostname="host-a", version="0.1.0"),
        )
        app = build_app(deps)
        async with trio.open_nursery() as serving:

            async def run(task_status: trio.TaskStatus[Listening] = trio.TASK_STATUS_IGNORED) -> None:
                await serve(app, http="127.0.0.1:0", socket=paths.api_socket, grace=1, task_status=task_status)

            listening: Listening = await serving.start(run)
            async with httpx.AsyncClient(base_url=listening.url or "", timeout=90) as client:
                yield World(app, deps, store, node, listening, client, consoles)
            serving.cancel_scope.cancel()
