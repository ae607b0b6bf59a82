"""A way to a real server that can be cut without a word: what is sent is taken, and nothing comes back."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo


class Relay:
    """Carries connections from a TCP port to the server's unix socket, in threads.

    While ``cut`` nothing is carried in either direction, and while ``closed`` no new connection is. Connections that
    came meanwhile stay unanswered for ever, as the packets of theirs that were lost. ``unanswered`` counts those.
    """

    def __init__(self, server: str) -> None:
        self.cut = self.closed = False
        self.unanswered = 0
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                if self.cut or self.closed:
                    self.unanswered += 1
                    continue
                server = socket.socket(socket.AF_UNIX)
                self._open.append(server)
                server.connect(self._server)
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def close(self) -> None:
        for one in (self._listener, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                if self.cut:
                    return  # lost, and so is whatever comes later
                other.sendall(data)
            other.shutdown(socket.SHUT_RDWR)


@contextmanager
def relayed(dsn: str) -> Iterator[tuple[Relay, str]]:
    """Yield a relay to a server, and how to connect by it; a connection attempt takes 2 s at most."""
    values = conninfo_to_dict(dsn)
    with psycopg.connect(dsn) as connection:
        port = connection.info.port
    relay = Relay(str(Path(str(values["host"])) / f".s.PGSQL.{port}"))
    thread = threading.Thread(target=relay.accept, daemon=True)
    thread.start()
    try:
        yield relay, make_conninfo(dsn, host="127.0.0.1", port=relay.port, connect_timeout=2)
    finally:
        relay.close()
        thread.join(10)
