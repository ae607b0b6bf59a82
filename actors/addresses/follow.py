"""The netlink socket: reads what the kernel says, in the network namespace of whoever calls."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable

import trio

from actors.addresses.mirror import Mirror
from actors.addresses.wire import GROUPS
from actors.model.network import OwnAddresses

#: Seconds of silence after which everything is asked again: events are hints, as all messages are.
ASK_AGAIN = 300.0
_DATAGRAM = 1 << 16
#: Seconds from the first event to the reading, and datagrams that are read then: a new TAP says a dozen things.
_GATHER, _AT_ONCE = 0.02, 256
#: Bytes of events that may wait: a host that starts makes thousands of TAPs at once.
_ROOM = 1 << 22
#: Not in the socket module: beyond net.core.rmem_max, for those who may.
_SO_RCVBUFFORCE = 33


async def follow(report: Callable[[OwnAddresses], Awaitable[None]]) -> None:
    """Call ``report`` with this machine's addresses, now and whenever they have changed, until cancelled.

    Raises `OSError` when the kernel refuses, `ValueError` when it says what is no netlink.
    """
    known: OwnAddresses | None = None
    while True:
        # After an overrun nobody knows what was lost: begin anew, on a socket without a question half answered.
        with _open() as connection:
            known = await _until_overrun(connection, known, report)


def _open() -> socket.socket:
    connection = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        connection.setblocking(False)
        try:
            connection.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
        except PermissionError:
            # In a container: as much as the machine grants to anybody. Overruns only cost another question.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
        connection.bind((0, GROUPS))
    except OSError:
        connection.close()
        raise
    return connection


async def _until_overrun(
    connection: socket.socket,
    known: OwnAddresses | None,
    report: Callable[[OwnAddresses], Awaitable[None]],
) -> OwnAddresses | None:
    mirror = Mirror()
    _ask(connection, mirror.begin())
    while True:
        with trio.move_on_after(ASK_AGAIN) as quiet:
            await trio.lowlevel.wait_readable(connection)
        if quiet.cancelled_caught:
            _ask(connection, mirror.begin())
            continue
        await trio.sleep(_GATHER)
        for _ in range(_AT_ONCE):
            try:
                data, _, flags, (sender, _) = connection.recvmsg(_DATAGRAM)
            except BlockingIOError:
                break  # that was all
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    return known
                raise
            if flags & socket.MSG_TRUNC:
                return known
            if sender != 0:
                continue  # any process may send to us; only the kernel is believed
            _ask(connection, mirror.feed(data))
            if mirror.own is not None and mirror.own != known:
                known = mirror.own
                await report(known)


def _ask(connection: socket.socket, question: bytes | None) -> None:
    if question is not None:
        connection.send(question)
