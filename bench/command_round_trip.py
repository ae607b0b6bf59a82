"""How long does a command take to another host, over TLS, until that has taken it?

The real receiver, which looks at epoch, generation and deadline and remembers the epoch on the disk; the host's actor
behind it answers at once. What is measured is so what the hint costs, not the machine that is started because of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from pathlib import Path
from uuid import UUID

import structlog
import trio

from actors.commands.messages import NAME, Command, CommandKind, Taken
from actors.commands.receiver import receiver
from actors.host.messages import NAME as HOST
from actors.host.messages import Attend
from bench._links import TIMEOUT, issue, linked_host, timed
from bench.question import Answer, Question, best_of
from runtime import Actor, Message, Spec, System
from runtime.links.messages import Introduce
from runtime.links.remote import RemoteRef
from runtime.ref import Ref
from zeitwork.epochs import EpochFile
from zeitwork.trust.files import TrustFiles
from zeitwork.wire import wire_registry

ROUNDS = 3
NODE = UUID(int=2)


class _Host(Actor):
    """Has what it is told."""

    async def receive(self, message: Message) -> None:
        """Answer."""
        if isinstance(message, Attend):
            self.ctx.reply("running")


def ask(quick: bool) -> Iterator[Answer]:
    """Measure each; microseconds. Both hosts are in this one process."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    times = 50 if quick else 2000
    try:
        with tempfile.TemporaryDirectory(prefix="zeitwork-bench-", dir="/var/tmp") as made:
            directory = Path(made)
            files = [issue(directory, number) for number in (1, 2)]
            numbers = count()

            def over_link(new_epochs: bool) -> float:
                path = directory / f"epoch-{next(numbers)}"
                return trio.run(_over_link, times // 10 if new_epochs else times, files, path, new_epochs)

            subjects: dict[str, Callable[[], float]] = {
                "command to another host, taken": lambda: over_link(False),
                "  to an actor of this host": lambda: trio.run(_here, times, directory / f"epoch-{next(numbers)}"),
                "  the first of an epoch, which is kept on disk": lambda: over_link(True),
            }
            yield from best_of(1 if quick else ROUNDS, "lower", subjects, {})
    finally:
        structlog.reset_defaults()


def _sending(ref: Ref, new_epochs: bool) -> Callable[[], Awaitable[Taken]]:
    epochs = count(1)

    async def once() -> Taken:
        epoch = next(epochs) if new_epochs else 1
        command = Command(CommandKind.CREATE, UUID(int=3), UUID(int=4), NODE, 1, epoch, TIMEOUT)
        taken = await ref.ask(command, timeout=TIMEOUT)
        assert (taken.placement_id, taken.epoch, taken.superseded) == (command.placement_id, epoch, False)
        return taken

    return once


async def _over_link(times: int, files: list[TrustFiles], path: Path, new_epochs: bool) -> float:
    registry = wire_registry()
    async with (
        linked_host(1, files[0], registry, []) as (system, board, _),
        linked_host(2, files[1], registry, [Spec(HOST, _Host)]) as (there, _, links),
    ):
        await there.start(receiver(NODE, EpochFile(path), there.name(HOST)))
        other = await system.name("links").ask(Introduce(links.addresses[0]), timeout=TIMEOUT)
        return await timed(times, _sending(RemoteRef(board, other, NAME), new_epochs))


async def _here(times: int, path: Path) -> float:
    found: list[float] = []
    async with System() as system:
        await system.start(Spec(HOST, _Host))
        await system.start(receiver(NODE, EpochFile(path), system.name(HOST)))
        found.append(await timed(times, _sending(system.name(NAME), False)))
    return found[0]


QUESTION = Question("command_round_trip", "command of the leader to another host over loopback", "µs", "lower", ask)
