"""A process that stands for election and says so when it leads: ``python -m bench._candidate DSN NODE GENERATION``."""

from __future__ import annotations

import signal
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
from zeitwork.store import Store, open_store


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
        async with open_store(dsn) as store, trio.open_nursery() as tasks:
            tasks.start_soon(store.run)

            def make() -> Elector:
                return Elector(
                    store.election, candidate, memory, lambda office: [Spec("herald", lambda: _Herald(office))]
                )

            async with System(RealEnvironment()) as system, trio.open_nursery() as hints:
                await system.start(elector(make))
                print("stands", flush=True)
                hints.start_soon(_pass_on, store, system)
                # As a host ends. An exception in the middle of whatever runs then could be raised where nobody sees it.
                with trio.open_signal_receiver(signal.SIGINT) as signals:
                    async for _ in signals:
                        break
                hints.cancel_scope.cancel()
            tasks.cancel_scope.cancel()


async def _pass_on(store: Store, system: System) -> None:
    with store.notifications.subscribe("zw_leader") as subscription:
        while True:
            await subscription.wait()
            system.name(NAME).tell(LeaseChanged())


if __name__ == "__main__":
    _, _dsn, _node, _generation = sys.argv
    trio.run(_main, _dsn, _node, _generation)
