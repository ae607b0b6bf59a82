"""What is done to a world, as data: faults and people's requests, each at its time. Read and written as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tests.simulation.item import Item as Item
from tests.simulation.item import Request as Request
from tests.simulation.moves import Invite as Invite
from tests.simulation.moves import Leave as Leave
from tests.simulation.moves import Remove as Remove

#: The name of the host that the database runs on.
DATABASE = "database"


# --- faults. ``host`` is a number; ``seconds`` is how long it lasts.


@dataclass(frozen=True)
class Kill(Item):
    """kill -9 of the host's process; its machines run on. It is started again after ``seconds``."""

    host: int
    seconds: float
    kind = "kill"


@dataclass(frozen=True)
class Quit(Item):
    """SIGTERM to the host's process: it says goodbye, its machines run on. It is started again after ``seconds``."""

    host: int
    seconds: float
    kind = "quit"


@dataclass(frozen=True)
class Crash(Item):
    """The whole machine goes down, its guests with it; it has booted anew after ``seconds``."""

    host: int
    seconds: float
    kind = "crash"


@dataclass(frozen=True)
class Pause(Item):
    """SIGSTOP of the host's process for ``seconds``."""

    host: int
    seconds: float
    kind = "pause"


@dataclass(frozen=True)
class Cut(Item):
    """Nothing gets through between host and database, or one way only: ``way`` is both, out or in."""

    host: int
    seconds: float
    way: str = "both"
    kind = "cut"


@dataclass(frozen=True)
class Stall(Item):
    """Packets are lost for ``seconds``: connections stall, and are reset then."""

    host: int
    seconds: float
    kind = "stall"


@dataclass(frozen=True)
class Slow(Item):
    """What goes from host to database takes ``mean`` seconds more."""

    host: int
    seconds: float
    mean: float
    kind = "slow"


@dataclass(frozen=True)
class Outage(Item):
    """The database is down for ``seconds``."""

    seconds: float
    kind = "outage"


@dataclass(frozen=True)
class Aborts(Item):
    """The database gives up this share of all transactions."""

    seconds: float
    share: float
    kind = "aborts"


@dataclass(frozen=True)
class LostAnswers(Item):
    """Connections break in this share of all commits, before or after they are done."""

    seconds: float
    share: float
    kind = "lost-answers"


@dataclass(frozen=True)
class LostHints(Item):
    """This share of all notifications does not arrive."""

    seconds: float
    share: float
    kind = "lost-hints"


@dataclass(frozen=True)
class ClockStep(Item):
    """The wall clock of a host (-1: of the database) is set forward or back by ``step`` seconds."""

    host: int
    step: float
    kind = "clock-step"


# --- between hosts, in worlds in which these are linked. ``other`` is a number, too.


@dataclass(frozen=True)
class LinkCut(Item):
    """Nothing gets through between two hosts for ``seconds``, or one way only: ``way`` is both, out or in."""

    host: int
    other: int
    seconds: float
    way: str = "both"
    kind = "link-cut"


@dataclass(frozen=True)
class LinkHold(Item):
    """What two hosts say to each other is kept for ``seconds``, and arrives then: no connection breaks by it."""

    host: int
    other: int
    seconds: float
    kind = "link-hold"


@dataclass(frozen=True)
class LinkStall(Item):
    """Packets between two hosts are lost for ``seconds``: connections stall, and are reset then."""

    host: int
    other: int
    seconds: float
    kind = "link-stall"


@dataclass(frozen=True)
class LinkSlow(Item):
    """What goes from host to the other takes ``mean`` seconds more."""

    host: int
    other: int
    seconds: float
    mean: float
    kind = "link-slow"


@dataclass(frozen=True)
class Split(Item):
    """``count`` hosts from ``host`` on are cut off from all others for ``seconds``; ``database``: from that, too."""

    host: int
    count: int
    seconds: float
    database: bool = False
    kind = "split"


@dataclass(frozen=True)
class AppCrash(Item):
    """The app of an instance ends by itself, wherever it runs."""

    instance: int
    kind = "app-crash"


@dataclass(frozen=True)
class MemberCrash(Item):
    """The app of a group's member ends by itself."""

    group: int
    kind = "member-crash"


@dataclass(frozen=True)
class Deaf(Item):
    """From now on guests of this instance do not hear that they should stop."""

    instance: int
    kind = "deaf"


@dataclass(frozen=True)
class FailStart(Item):
    """Starts fail on a host for ``seconds``, in the middle of this ``job``."""

    host: int
    seconds: float
    job: str
    kind = "fail-start"


@dataclass(frozen=True)
class Ambush(Item):
    """Whoever first comes to the point ``on`` is hit there: ``does`` is pause, kill or crash, for ``seconds``, or late:
    its process is killed as it sends, and what it sent arrives so many seconds later.

    Points: ``apply`` a leader sends a transaction, ``applied`` it was answered, ``observe`` and ``observed`` a host
    tells of a placement, ``acquire`` a candidate wants the lease, ``spawned`` a monitor was started, ``command`` a
    leader sends a command over a link: this one is only cut off from the database, and what it sent arrives late.
    """

    seconds: float
    on: str
    does: str
    kind = "ambush"


# --- people. ``instance`` and ``group`` are numbers, ``via`` is the host that takes the request.


@dataclass(frozen=True)
class Create(Request):
    """Make an instance. ``pinned`` is a host or -1; ``restart`` a `RestartMode`; ``stop_timeout`` in seconds."""

    instance: int
    via: int
    vcpu: int = 1
    memory: int = 256
    pinned: int = -1
    restart: str = "always"
    singleton: bool = False
    stop_timeout: float = 5.0
    kind = "create"


@dataclass(frozen=True)
class Stop(Request):
    """Stop an instance."""

    instance: int
    via: int
    force: bool = False
    kind = "stop"


@dataclass(frozen=True)
class Start(Request):
    """Start an instance again."""

    instance: int
    via: int
    kind = "start"


@dataclass(frozen=True)
class Restart(Request):
    """Have an instance's next generation."""

    instance: int
    via: int
    force: bool = False
    kind = "restart"


@dataclass(frozen=True)
class Delete(Request):
    """Terminate an instance."""

    instance: int
    via: int
    force: bool = False
    kind = "delete"


@dataclass(frozen=True)
class Replace(Request):
    """Have an instance placed anew; with ``force`` one that must be alone, too."""

    instance: int
    via: int
    force: bool = False
    kind = "replace"


@dataclass(frozen=True)
class CreateGroup(Request):
    """Make a group of so many instances."""

    group: int
    via: int
    replicas: int
    vcpu: int = 1
    memory: int = 128
    restart: str = "always"
    kind = "create-group"


@dataclass(frozen=True)
class Scale(Request):
    """Have another number of instances in a group."""

    group: int
    via: int
    replicas: int
    kind = "scale"


@dataclass(frozen=True)
class DeleteGroup(Request):
    """Have a group gone."""

    group: int
    via: int
    kind = "delete-group"


@dataclass(frozen=True)
class Cordon(Request):
    """Have nothing new on a host."""

    host: int
    via: int
    kind = "cordon"


@dataclass(frozen=True)
class Drain(Request):
    """Have nothing on a host."""

    host: int
    via: int
    kind = "drain"


@dataclass(frozen=True)
class Uncordon(Request):
    """Use a host again."""

    host: int
    via: int
    kind = "uncordon"


KINDS: dict[str, type[Item]] = {
    kind.kind: kind
    for kind in (
        *(Kill, Quit, Crash, Pause, Cut, Stall, Slow, Outage, Aborts, LostAnswers, LostHints, ClockStep),
        *(LinkCut, LinkHold, LinkStall, LinkSlow, Split),
        *(Ambush, AppCrash, MemberCrash, Deaf, FailStart, Create, Stop, Start, Restart, Delete, Replace),
        *(CreateGroup, Scale, DeleteGroup, Cordon, Drain, Uncordon, Remove, Leave, Invite),
    )
}


@dataclass(frozen=True)
class Plan:
    """A world: how many hosts of what size, for how long, what happens. ``seed`` decides all that is left to chance.

    ``vcpu`` and ``memory`` (MiB) are what each host can give. ``note`` is for plans that are kept: what they found.
    ``settings``: with ``links`` hosts are linked with each other, without they meet in the database only; ``machines``
    is how many there are beyond ``hosts``, which are hosts of no cluster until they are invited.
    """

    seed: int
    hosts: int
    seconds: float
    items: tuple[Item, ...] = ()
    vcpu: int = 8
    memory: int = 4096
    note: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def healed(self) -> float:
        """When the last fault is over."""
        return max([self.seconds, *(item.over for item in self.items)])

    def to_json(self) -> str:
        """Return it as text."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "items"}
        items = [{"kind": item.kind, **asdict(item)} for item in self.items]
        lines = ",\n".join("    " + json.dumps(item) for item in items)
        head = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in values.items())
        return "{\n" + head + ',\n  "items": [\n' + lines + "\n  ]\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` wrote. Raises `ValueError` that names what is wrong."""
        try:
            values = json.loads(text)
            items = tuple(_item(item) for item in values.pop("items"))
            return cls(items=items, **values)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is not a plan: {error}") from error

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read a file. Raises `OSError` and `ValueError`."""
        return cls.from_json(path.read_text())


def _item(values: dict[str, Any]) -> Item:
    kind = KINDS[values.pop("kind")]
    return kind(**values)


def counts(items: Iterable[Item]) -> dict[str, int]:
    """Return how many items there are of each kind."""
    found: dict[str, int] = {}
    for item in items:
        found[item.kind] = found.get(item.kind, 0) + 1
    return dict(sorted(found.items()))
