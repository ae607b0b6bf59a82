"""Members: the hosts as this one knows them by gossip. Answers while the database is away."""

from __future__ import annotations

from uuid import UUID

import msgspec

from actors.registrar.sightings import Seen
from zeitwork.api.call import Answer, Call
from zeitwork.api.paging import PageQuery
from zeitwork.members import Known, Overview
from zeitwork.store.paging import parse_cursor


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """How busy a host is, as it told the others lately. Memory in MiB, as the machine has it: not what is promised.

    ``cpus`` with fractions, ``load`` the 1 minute load average, ``pressure`` the share of the last minute in which
    tasks waited for a CPU, 0 to 1. ``closed``: it takes no new work for now.
    """

    cpus: float
    load: float
    pressure: float
    memory: int
    memory_available: int
    closed: bool


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """What the host that answers knows of one by gossip: in ``state`` for ``age`` seconds.

    ``alive``, ``suspect`` (it gave no answer lately), ``dead`` or ``left`` (on purpose). ``refused``: its machine
    answers that nobody listens there. ``generation`` counts the starts of its process. ``address`` is where its links
    are made. ``load`` is null until it has told.
    """

    state: Seen
    age: float
    refused: bool
    generation: int
    address: str | None
    load: Load | None


class Member(Membership, frozen=True, kw_only=True):
    """A host of the cluster. ``hostname`` is null until it has told. ``own``: the host that answers."""

    node_id: UUID
    hostname: str | None
    version: str | None
    hypervisor: str | None
    own: bool


class MemberPage(msgspec.Struct, frozen=True, kw_only=True):
    """Hosts by id. ``linked``: the host that answers has links to others; ``joined``: it has found the cluster.

    ``health`` is how badly it does at this itself, from 0 (well) to 8.
    """

    items: list[Member]
    next_cursor: str | None
    node_id: UUID
    linked: bool
    joined: bool
    health: int


def overview_of(call: Call) -> Overview:
    """Return what this host knows of all hosts."""
    return Overview((), False, False, 0) if call.deps.members is None else call.deps.members.overview()


def membership_of(known: Known | None) -> Membership | None:
    """Return what is shown of a host beside what the database has of it."""
    if known is None:
        return None
    return Membership(
        state=known.state,
        age=round(known.age, 1),
        refused=known.refused,
        generation=known.generation,
        address=known.address,
        load=_load(known),
    )


async def listing(call: Call) -> Answer:
    """GET /api/v1/members."""
    query: PageQuery = call.query
    after, overview = parse_cursor(query.cursor), overview_of(call)
    rest = [one for one in overview.known if one.node_id > after]
    shown = rest[: query.limit]
    return Answer(
        MemberPage(
            items=[_member(one) for one in shown],
            next_cursor=shown[-1].node_id.hex if len(rest) > len(shown) else None,
            node_id=call.deps.node_id,
            linked=overview.linked,
            joined=overview.joined,
            health=overview.health,
        )
    )


def _member(known: Known) -> Member:
    bulletin = known.bulletin
    return Member(
        node_id=known.node_id,
        hostname=(bulletin.hostname or None) if bulletin else None,
        version=(bulletin.version or None) if bulletin else None,
        hypervisor=bulletin.hypervisor if bulletin else None,
        own=known.own,
        state=known.state,
        age=round(known.age, 1),
        refused=known.refused,
        generation=known.generation,
        address=known.address,
        load=_load(known),
    )


def _load(known: Known) -> Load | None:
    bulletin = known.bulletin
    if bulletin is None:
        return None
    return Load(
        cpus=bulletin.cpus,
        load=bulletin.load,
        pressure=bulletin.waiting,
        memory=bulletin.memory,
        memory_available=bulletin.memory_available,
        closed=bulletin.closed,
    )
