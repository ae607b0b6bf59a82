"""A QEMU guest in a file: written by a migration out of a paused QEMU, read by one into a fresh QEMU."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import trio

from actors.model.errors import Failed
from actors.vm.qmp import Qmp

#: Seconds for one answer. Seconds for a migration, and more of them for each MiB of memory.
_CALL, _MOVE, _MOVE_MIB = 5.0, 20.0, 0.05
#: First and largest wait in seconds between questions about how far it is.
_FIRST, _LARGEST = 0.005, 0.1
#: The name of our file for QEMU.
_FILE = "state"
#: Bytes per second: a migration is held back for the sake of others' networks, by default to 128 MiB/s.
_BANDWIDTH = 1 << 40
_UNDER_WAY = ("none", "setup", "active", "device", "pre-switchover", "cancelling")


async def write_state(qmp: Qmp, descriptor: int) -> None:
    """Write the paused guest of ``qmp`` into a file of ours. Raises `Failed`; then, or cancelled, call `give_up`."""
    await qmp.execute("migrate-set-parameters", _CALL, {"max-bandwidth": _BANDWIDTH})
    await qmp.execute("getfd", _CALL, {"fdname": _FILE}, descriptor=descriptor)
    await qmp.execute("migrate", _CALL, {"uri": f"fd:{_FILE}"})
    await _until_done(qmp, "written")


async def read_state(qmp: Qmp, descriptor: int) -> None:
    """Make the guest in a file of ours that of a QEMU that waits for one; it is paused then. Raises `Failed`."""
    await qmp.execute("getfd", _CALL, {"fdname": _FILE}, descriptor=descriptor)
    await qmp.execute("migrate-incoming", _CALL, {"uri": f"fd:{_FILE}"})
    await _until_done(qmp, "read")


async def give_up(socket: Path) -> None:
    """End a migration that may be under way, so that its guest can go on, whatever happens to the caller."""
    with trio.move_on_after(2 * _CALL, shield=True), suppress(Failed):
        # A new conversation: the old one may have been left in the middle of a word.
        async with await Qmp.connect(socket, _CALL) as qmp:
            await qmp.execute("migrate_cancel", _CALL)
            while await _progress(qmp) in _UNDER_WAY[1:]:  # noqa: ASYNC110 - QEMU does not tell
                await trio.sleep(_FIRST)


async def _until_done(qmp: Qmp, what: str) -> None:
    memory = await qmp.execute("query-memory-size-summary", _CALL)
    deadline = _MOVE + _MOVE_MIB * int(memory["base-memory"]) / (1 << 20)
    wait = _FIRST
    with trio.move_on_after(deadline):
        while (status := await _progress(qmp)) in _UNDER_WAY:
            await trio.sleep(wait)
            wait = min(_LARGEST, wait * 2)
        if status != "completed":
            raise Failed(f"qemu's state was not {what}: {await _why(qmp) or status}")
        return
    raise Failed(f"qemu's state was not {what} within {deadline:g} s")


async def _progress(qmp: Qmp) -> str:
    answer = await qmp.execute("query-migrate", _CALL)
    return str(answer.get("status", "none"))


async def _why(qmp: Qmp) -> str:
    answer = await qmp.execute("query-migrate", _CALL)
    return str(answer.get("error-desc", ""))
