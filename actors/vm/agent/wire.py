"""The guest agent's protocol, version 1: what travels between a host and the init of one guest.

The agent is part of the guest's init (PID 1), so that an answer proves that the init itself is alive. One byte stream
carries everything: a vsock connection from the host to port `PORT` of the guest (Firecracker), or the virtio-serial
port named `SERIAL` (QEMU). Only the host can be the other end: vsock peers other than CID 2 are refused, the serial
port is held open by the init alone.

**Frames.** ``u8 kind, u8 0, u16 length, u32 session``, little endian, then ``length`` bytes, `MAX_PAYLOAD` at most.
Session 0 is the guest itself, any other number one command that the host had run. Between frames single zero bytes are
skipped: a stream that outlives its host (virtio-serial) may stand in the middle of a frame that will never be whole,
so a host begins there with `PREAMBLE`, enough zeros to end any frame. What such a damaged frame could do is harmless:
commands and identities carry their own proof of being whole.

**Beginning.** The host says `Kind.HELLO` with 16 random bytes; the guest ends every session of an earlier host and
answers with the same bytes. Whatever the host receives before that is of no meaning and skipped.

A vsock connection may die without a word after a snapshot or a restore: the guest's kernel drops all connections as
soon as it finds Firecracker's notice of it, which may be with the first one made after it. So a host that has no
answer to HELLO within a second or two connects anew; what it sends on a dead connection, if only a PING, ends that at
once. Right after a restore a connection may also be refused once. The listener itself lives on.

**Requests** of session 0. Each is answered by one frame, in order, and the host may send several at once:

=================  ============================================================  ==================================
host to guest      payload                                                       answer
=================  ============================================================  ==================================
HELLO              16 random bytes, u16 version                                  HELLO: the 16 bytes, u16 version,
                                                                                 u16 flags (1: frozen)
PING               u64 number                                                    PONG: u64 number, u64 ms since boot
STATISTICS         nothing                                                       STATISTICS: records, see below
STOP               nothing                                                       OK; the app is asked to end, as by the
                                                                                 power button
FREEZE             nothing                                                       OK once file systems are synced and
                                                                                 every process but the init is stopped
THAW               u64 Unix ms, 0: leave the clock                               OK once the clock is set and what was
                                                                                 frozen goes on
ENTROPY            1 to 512 random bytes                                         OK once they are credited and the
                                                                                 kernel's generator is reseeded
IDENTITY           u32 total, u32 offset, part of a config drive                 OK for each part, after the last one
                                                                                 once address, MAC, routes, host name,
                                                                                 resolvers and nonce are those of it
=================  ============================================================  ==================================

**Statistics** are whole numbers: ``uptime_ms``, ``load_1m_milli`` (load average of the last minute, in thousandths),
``processes`` (the kernel's own too), ``memory_total_kib``, ``memory_available_kib``, ``disk_total_kib`` and
``disk_used_kib`` (of the writable layer), ``network_received_bytes`` and ``network_sent_bytes`` (of eth0),
``cpu_user_ms``, ``cpu_system_ms`` and ``cpu_idle_ms`` (of all CPUs since the boot), ``oom_kills`` (processes that the
kernel killed for want of memory) and ``app_pid``. A newer guest may have more.

A request that can't be carried out is answered by ``ERROR``: u8 kind of the request, then text for people. ``OK``
carries the u8 kind too. FREEZE when frozen and THAW when not are fine. A guest whose identity changed says
``restored`` and then ``started pid=N`` on its console, with its new nonce, when it is thawed.

**Sessions.** ``OPEN`` has records ``name=value\\0``: ``arg`` (one or more), ``env`` (KEY=VALUE, over those of the app),
``cwd`` (default: the app's), ``user`` (as in an image; default: the app's), ``tty=1`` with ``rows`` and ``cols``, and
``end=`` as the last, without which it was cut and is refused. It is answered by ``STARTED`` (u32 pid) or ``REFUSED``
(text for people). Then, in any order:

- host: ``DATA`` (standard input), ``EOF`` (no more of it), ``RESIZE`` (u16 rows, u16 cols), ``SIGNAL`` (u8, to the
  foreground process group), ``CREDIT`` (u32), ``CLOSE`` (SIGHUP, and SIGKILL two seconds later, to the whole session);
- guest: ``OUTPUT``, ``ERRORS`` (standard error; never with a terminal), ``CREDIT`` (u32), and as the last
  frame of a session ``EXIT`` (u8 0: status, 1: signal; u8 value). A session whose command ended while something else
  still holds its output open ends one second after it.

Each side may send `INITIAL_CREDIT` bytes of data in a session (output and errors together) and as many more as
``CREDIT`` grants, so that a command that floods neither blocks the heartbeat nor fills anybody's memory. Frames for
sessions that do not exist (any more) are ignored. At most `MAX_SESSIONS` run at once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

VERSION = 1
#: Ports below 1024 need a privilege that apps without root do not have.
PORT = 20
SERIAL = "org.zeitwork.agent"
MAX_PAYLOAD = 16 * 1024
INITIAL_CREDIT = 64 * 1024
MAX_SESSIONS = 16
TOKEN_BYTES = 16
MAX_ENTROPY = 512
#: Ends any frame that an earlier host left unfinished.
PREAMBLE = bytes(MAX_PAYLOAD + 8)

_HEADER = struct.Struct("<BxHI")


class Kind(IntEnum):
    """Kinds of frames. Those from 128 on come from the guest."""

    HELLO = 1
    PING = 2
    STATISTICS = 3
    STOP = 4
    FREEZE = 5
    THAW = 6
    ENTROPY = 7
    IDENTITY = 8
    OPEN = 16
    DATA = 17
    EOF = 18
    RESIZE = 19
    SIGNAL = 20
    CREDIT = 21
    CLOSE = 22

    HELLO_BACK = 129
    PONG = 130
    STATISTICS_BACK = 131
    OK = 132
    ERROR = 133
    STARTED = 144
    REFUSED = 145
    OUTPUT = 146
    ERRORS = 147
    CREDIT_BACK = 148
    EXIT = 149


class WireError(ValueError):
    """The other end does not speak this protocol."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. ``kind`` is a `Kind`, or a number that a newer peer knows."""

    kind: int
    session: int = 0
    payload: bytes = b""

    def encode(self) -> bytes:
        """Return it as bytes. Raises `WireError` when it is too long."""
        if len(self.payload) > MAX_PAYLOAD:
            raise WireError(f"{len(self.payload)} bytes in one frame; {MAX_PAYLOAD} are allowed")
        return _HEADER.pack(self.kind, len(self.payload), self.session) + self.payload


class Decoder:
    """Makes frames of bytes as they come. Holds at most one unfinished frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes; return the frames that they complete. Raises `WireError` on a frame too long."""
        self._buffer += data
        frames: list[Frame] = []
        at = 0
        size = len(self._buffer)
        while True:
            while at < size and self._buffer[at] == 0:
                at += 1
            if size - at < _HEADER.size:
                break
            kind, length, session = _HEADER.unpack_from(self._buffer, at)
            if length > MAX_PAYLOAD:
                raise WireError(f"a frame of {length} bytes; {MAX_PAYLOAD} are allowed")
            end = at + _HEADER.size + length
            if end > size:
                break
            frames.append(Frame(kind, session, bytes(self._buffer[at + _HEADER.size : end])))
            at = end
        del self._buffer[:at]
        return frames


def records(items: Iterable[tuple[str, str]]) -> bytes:
    """Return ``name=value\\0`` records."""
    return b"".join(f"{name}={value}".encode() + b"\0" for name, value in items)


def parse_records(payload: bytes) -> dict[str, str]:
    """Return records as a mapping; of records with one name, the last."""
    found = {}
    for record in payload.split(b"\0"):
        name, separator, value = record.decode("utf-8", "replace").partition("=")
        if separator:
            found[name] = value
    return found
