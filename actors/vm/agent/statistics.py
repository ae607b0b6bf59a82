"""What a guest says about itself when asked."""

from __future__ import annotations

from dataclasses import dataclass, fields

from actors.vm.agent.wire import parse_records

#: Nothing that is counted here is larger; a guest that says more is not believed.
_LARGEST = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters and sizes of a guest, None for what it did not say.

    Units are in the names; counters count since the guest's boot. ``load_1m_milli`` is the load average of one minute
    times 1000, ``app_pid`` the app's process in the guest, 0 while there is none. All of it is the guest's own word.
    """

    uptime_ms: int | None = None
    load_1m_milli: int | None = None
    processes: int | None = None
    memory_total_kib: int | None = None
    memory_available_kib: int | None = None
    disk_total_kib: int | None = None
    disk_used_kib: int | None = None
    network_received_bytes: int | None = None
    network_sent_bytes: int | None = None
    cpu_user_ms: int | None = None
    cpu_system_ms: int | None = None
    cpu_idle_ms: int | None = None
    oom_kills: int | None = None
    app_pid: int | None = None


_NAMES = tuple(field.name for field in fields(Statistics))


def parse(payload: bytes) -> Statistics:
    """Return the statistics in a frame's records. Names that are not known and what is no number are left out."""
    found = parse_records(payload)
    return Statistics(**{name: number for name in _NAMES if (number := _number(found.get(name, ""))) is not None})


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        return None
    number = int(text)
    return number if number <= _LARGEST else None
