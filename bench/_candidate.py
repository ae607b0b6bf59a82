"""A process that stands for election and says so when it leads: ``python -m bench._candidate DSN NODE GENERATION``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from uuid import UUID, uuid4

import structlog
import trio

from runtime import Actor, Message, RealEnvironment, Spec, System
from runtime.elector import NAME, Elector, LeaseChanged, elector
from runtime.lease import Candidate
from runtime.office import Office
from zeitwork.epochs import EpochFile
from zeitwork.store import open_store


class _Herald(Actor):
    """What this leader consists of."""

    def __init__(self, office: Office) -> None:
        self._office = office

    async def init(self) -> None:
        """Tell whoever started this process."""
        print(f"leads {self._office.term().epoch}", flush=True)

    async def receive(self, _: Message) -> None:
        """Nobody tells it anything."""


async def _main(dsn: str, node: str, generation: str) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    candidate = Candidate(UUID(node), int(generation), uuid4())
    with tempfile.TemporaryDirectory(prefix="zeitwork-bench-") as directory:
        memory = EpochFile(Path(directory) / "epoch")
        async with open_store(dsn) as store, trio.open_nursery() as tasks, System(RealEnvironment()) as system:
            tasks.start_soon(store.run)

            def make() -> Elector:
                return Elector(
                    store.election, candidate, memory, lambda office: [Spec("herald", lambda: _Herald(office))]
                )

            await system.start(elector(make))
            print("stands", flush=True)
            with store.notifications.subscribe("zw_leader") as subscription:
                while True:
                    await subscription.wait()
                    system.name(NAME).tell(LeaseChanged())


if __name__ == "__main__":
    _, _dsn, _node, _generation = sys.argv
    trio.run(_main, _dsn, _node, _generation)
