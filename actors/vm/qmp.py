"""QEMU's machine protocol: JSON lines over a unix socket."""

from __future__ import annotations

import array
import json
import socket
from pathlib import Path
from typing import Any

import trio

from actors.model.errors import Failed
from actors.vm.sockets import connect

#: Answers that we ask for are short; a longer line is refused rather than buffered.
_MAX_LINE = 1024 * 1024


class Qmp:
    """One conversation with a QEMU. It serves one at a time; events are skipped."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self._number = 0

    @classmethod
    async def connect(cls, socket: Path, deadline: float) -> Qmp:
        """Connect, take the greeting and leave negotiation mode, all in ``deadline`` seconds. Raises `Failed`."""
        start = trio.current_time()
        stream = await connect(socket, deadline, "qemu")
        qmp = cls(stream)
        try:
            left = max(0.5, deadline - (trio.current_time() - start))
            await qmp._within(left, "its greeting", qmp._message)
            await qmp.execute("qmp_capabilities", left)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return qmp

    async def __aenter__(self) -> Qmp:
        return self

    async def __aexit__(self, *_: object) -> None:
        await trio.aclose_forcefully(self._stream)

    async def execute(
        self, command: str, deadline: float, arguments: dict[str, Any] | None = None, *, descriptor: int | None = None
    ) -> Any:
        """Run a command; return what it returned. Raises `Failed` with QEMU's own words.

        ``descriptor``, a file of ours, goes with it; QEMU gets a copy.
        """
        self._number += 1
        request: dict[str, Any] = {"execute": command, "id": self._number}
        if arguments is not None:
            request["arguments"] = arguments

        async def exchange() -> dict[str, Any]:
            data = json.dumps(request).encode() + b"\n"
            if descriptor is not None:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
                data = data[await self._stream.socket.sendmsg([data], rights) :]
            await self._stream.send_all(data)
            while True:
                message = await self._message()
                # An answer to what was given up has another number.
                if ("return" in message or "error" in message) and message.get("id") == request["id"]:
                    return message

        message = await self._within(deadline, command, exchange)
        if "error" in message:
            error = message["error"]
            raise Failed(f"qemu refused {command}: {error.get('desc') if isinstance(error, dict) else error}")
        return message["return"]

    async def _within(self, deadline: float, what: str, work: Any) -> dict[str, Any]:
        try:
            with trio.fail_after(deadline):
                message: dict[str, Any] = await work()
                return message
        except trio.TooSlowError:
            raise Failed(f"qemu did not answer {what} within {deadline:g} s") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
            raise Failed(f"qemu closed the connection during {what}") from error

    async def _message(self) -> dict[str, Any]:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > _MAX_LINE:
                raise Failed("qemu sent a line that is too long")
            data = await self._stream.receive_some(65536)
            if not data:
                raise trio.BrokenResourceError("closed")
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            message = json.loads(line)
        except ValueError:
            raise Failed(f"qemu sent something that is not QMP: {line[:100]!r}") from None
        if not isinstance(message, dict):
            raise Failed(f"qemu sent something that is not QMP: {line[:100]!r}")
        return message
