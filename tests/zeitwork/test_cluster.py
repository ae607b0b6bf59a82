"""What a host remembers of its join, and whom it keeps links to."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from actors.commands.messages import Command, CommandKind, Taken
from actors.model.errors import Failed, InvalidInput, Problem
from runtime import Actor, Message, RealEnvironment, Spec, System
from runtime.links.board import Board
from runtime.links.messages import Admit, Forget, Want
from runtime.links.registry import Unreadable, from_plain, to_plain
from runtime.links.transport import Address
from runtime.membership.claim import State
from runtime.membership.events import Member, Notice, Superseded
from tests.runtime.parts import settled, simulated
from zeitwork.advertised import advertise_file, advertised, remember
from zeitwork.cluster import Linked, Membership, MembershipFile, membership_of, start_links
from zeitwork.config import load
from zeitwork.leave import forget
from zeitwork.peers import EVERY, MOST, Peers, choose
from zeitwork.tree import _membership
from zeitwork.trust import certificates
from zeitwork.wire import wire_registry

HOST = UUID(int=4)
ENV = RealEnvironment()


# ---- what is remembered


def test_a_membership_is_kept_privately(tmp_path: Path) -> None:
    file = MembershipFile(tmp_path)
    assert file.load() is None
    for database in (None, "postgresql://u:secret@db/z"):
        saved = Membership(UUID(int=1), database, ("192.0.2.1:7946", "[2001:db8::1]:7946"), "h2:7946")
        file.save(saved)
        assert file.load() == saved
        assert file.path.stat().st_mode & 0o777 == 0o600
        assert "secret" not in repr(saved)
    assert [item.name for item in file.path.parent.iterdir()] == ["cluster.json"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"cluster": "x"}', "\x00", '{"cluster": 1, "database": 2}'])
def test_a_membership_that_can_not_be_read_says_what_to_do(tmp_path: Path, text: str) -> None:
    file = MembershipFile(tmp_path)
    file.path.parent.mkdir()
    file.path.write_text(text)
    with pytest.raises(Failed) as caught:
        file.load()
    assert str(file.path.parent) in str(caught.value.fix)


async def test_joining_needs_a_token_and_a_host_without_a_database(tmp_path: Path) -> None:
    flags = {"data_dir": str(tmp_path), "join": "https://127.0.0.1:1"}
    assert await membership_of(load({"data_dir": str(tmp_path)}), HOST, ENV) is None
    with pytest.raises(InvalidInput) as caught:
        await membership_of(load(flags), HOST, ENV)
    assert caught.value.field == "token"
    (tmp_path / "postgres").mkdir()
    with pytest.raises(InvalidInput, match="database of its own") as caught:
        await membership_of(load({**flags, "token": "x"}), HOST, ENV)
    # Nothing that setup brought is among what it says to remove.
    assert f"rm -rf {tmp_path}/postgres " in str(caught.value.fix)


async def test_a_token_without_the_address_it_is_for_makes_no_host_of_its_own(tmp_path: Path) -> None:
    config = load({"data_dir": str(tmp_path), "token": "zwt1_x"})
    with pytest.raises(InvalidInput) as caught:
        await _membership(config, HOST, ENV)
    assert caught.value.field == "join"
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_where_others_reach_a_host_is_remembered(tmp_path: Path) -> None:
    plain, told = load({"data_dir": str(tmp_path)}), load({"data_dir": str(tmp_path), "advertise": "192.0.2.1"})
    assert advertised(plain, None) is None
    assert advertised(told, None) == "192.0.2.1:7946"
    remember(told, None, "192.0.2.1:7946")
    # `zeitwork run` is enough from now on; what is said again counts.
    assert advertised(plain, None) == "192.0.2.1:7946"
    remember(told, None, "[2001:db8::1]:7946")
    assert advertised(plain, None) == "[2001:db8::1]:7946"
    assert [item.name for item in (tmp_path / "trust").iterdir()] == ["advertise"]
    # Whoever joined has it with the rest, and what is said to it later is kept as well.
    joined = Membership(UUID(int=1), None, ("192.0.2.1:7946",), "wrong.example:7946")
    assert advertised(plain, joined) == "wrong.example:7946"
    assert advertised(told, joined) == "192.0.2.1:7946"
    remember(told, joined, "192.0.2.1:7946")
    assert MembershipFile(tmp_path).load() == replace(joined, advertise="192.0.2.1:7946")
    forget(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "a b", "0.0.0.0", "192.0.2.1:0"])
def test_an_address_that_can_not_be_read_says_what_to_do(tmp_path: Path, text: str) -> None:
    path = advertise_file(tmp_path)
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(Failed) as caught:
        advertised(load({"data_dir": str(tmp_path)}), None)
    assert f"rm {path}" in str(caught.value.fix)
    assert advertised(load({"data_dir": str(tmp_path), "advertise": "h1"}), None) == "h1:7946"


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({}, "advertise"),
        ({"advertise": "127.0.0.1:1", "join": "https://127.0.0.1:1"}, "unclaimed"),
        ({"advertise": "127.0.0.1:1", "token": "zwt1_short"}, "token"),
        ({"advertise": "203.0.113.200:1"}, "advertise"),
    ],
)
async def test_an_unclaimed_host_says_what_does_not_go_together(
    tmp_path: Path, more: dict[str, str], field: str
) -> None:
    # The last one: a port that is taken.
    taken = await trio.open_tcp_listeners(0)
    if more == {"advertise": "203.0.113.200:1"}:
        more = {"advertise": f"203.0.113.200:{taken[0].socket.getsockname()[1]}"}
    config = load({"data_dir": str(tmp_path), "unclaimed": True, **more})
    with pytest.raises(Problem) as caught:
        await membership_of(config, HOST, ENV)
    assert caught.value.field == field
    assert [name for _, _, names in os.walk(tmp_path) for name in names] == []
    for listener in taken:
        await listener.aclose()
    (tmp_path / "postgres").mkdir()
    config = load({"data_dir": str(tmp_path), "unclaimed": True, "advertise": "127.0.0.1:1"})
    with pytest.raises(InvalidInput, match="database of its own"):
        await membership_of(config, HOST, ENV)


async def test_a_join_that_fails_leaves_only_the_key_for_the_next_try(tmp_path: Path) -> None:
    config = load({"data_dir": str(tmp_path), "join": "https://127.0.0.1:1", "token": "zwt1_x"})
    keys = set()
    for _ in range(2):
        with pytest.raises(InvalidInput, match="incomplete"):
            await membership_of(config, HOST, ENV)
        (left,) = (tmp_path / "trust").iterdir()
        assert left.name == "joining.pem"
        assert left.stat().st_mode & 0o777 == 0o600
        keys.add(left.read_text())
    assert len(keys) == 1
    assert callable(start_links)


@pytest.mark.parametrize("left", ["", "-----BEGIN PRIVATE KEY-----\nMIGHAg", "nonsense"])
async def test_half_a_key_of_a_join_that_was_cut_short_is_replaced(tmp_path: Path, left: str) -> None:
    """The machine lost power, or its disk was full: the host can join nevertheless."""
    config = load({"data_dir": str(tmp_path), "join": "https://127.0.0.1:1", "token": "zwt1_x"})
    key = tmp_path / "trust" / "joining.pem"
    key.parent.mkdir(mode=0o700)
    key.write_text(left)
    with pytest.raises(InvalidInput, match="incomplete"):
        await membership_of(config, HOST, ENV)
    assert certificates.request(key.read_text())
    assert key.stat().st_mode & 0o777 == 0o600
    assert list(key.parent.iterdir()) == [key]


async def test_no_room_for_a_key_is_a_problem_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    config = load({"data_dir": str(tmp_path), "join": "https://127.0.0.1:1", "token": "zwt1_x"})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Failed, match="No space left") as caught:
        await membership_of(config, HOST, ENV)
    assert (caught.value.field, caught.value.fix is None) == ("data_dir", False)
    assert list((tmp_path / "trust").iterdir()) == []


# ---- whom to link with


@given(st.sets(st.uuids(), min_size=2, max_size=40))
def test_few_links_are_kept_and_nobody_is_alone(hosts: set[UUID]) -> None:
    everybody = {host: f"192.0.2.1:{number + 1}" for number, host in enumerate(sorted(hosts))}
    kept = {host: choose(host, {other: a for other, a in everybody.items() if other != host}) for host in hosts}
    for host, others in kept.items():
        assert len(others) == min(MOST, len(hosts) - 1)
        assert host not in others
    reached, new = set(), {min(hosts)}
    linked = {host: set(others) | {other for other in hosts if host in kept[other]} for host, others in kept.items()}
    while new:
        reached |= new
        new = set().union(*(linked[host] for host in new)) - reached
    assert reached == hosts


def test_addresses_that_are_none_are_left_out() -> None:
    assert choose(HOST, {UUID(int=1): "nonsense", UUID(int=2): "h:7"}) == {UUID(int=2): Address("h", 7)}


class Recorder(Actor):
    def __init__(self, seen: list[Message]) -> None:
        self._seen = seen

    async def receive(self, message: Message) -> None:
        self._seen.append(message)


class Away:
    """A store that is away now and then."""

    def __init__(self) -> None:
        self.away = False
        self.known: dict[UUID, str] = {}
        self.gone: frozenset[UUID] = frozenset()

    async def others(self, node: UUID) -> dict[UUID, str]:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise OSError("away")
        return dict(self.known)

    async def removed(self) -> frozenset[UUID]:
        return self.gone


async def test_links_follow_the_database_and_stay_while_it_is_away(autojump_clock: object) -> None:
    store, seen = Away(), list[Message]()
    async with simulated() as system:
        links = await system.start(Spec("links", lambda: Recorder(seen)))
        await system.start(Spec("peers", lambda: Peers(HOST, store, links)))
        await trio.sleep(0.1)
        assert seen == [Want({})]
        store.away = True
        await trio.sleep(5 * EVERY)
        assert seen == [Want({})]
        store.away, store.known, store.gone = False, {UUID(int=1): "h:7"}, frozenset({UUID(int=2)})
        await trio.sleep(2 * EVERY)
        assert seen[1] == Want({UUID(int=1): Address("h", 7)})
        assert [message for message in seen if isinstance(message, Forget)] == [Forget(UUID(int=2), refuse=True)]
        # It registers anew, and announces where it is a little later.
        store.gone = frozenset()
        await trio.sleep(EVERY)
        assert not any(isinstance(message, Admit) for message in seen)
        store.known = {**store.known, UUID(int=2): "h:8"}
        await trio.sleep(3 * EVERY)
        assert [message for message in seen if isinstance(message, Admit)] == [Admit(frozenset({UUID(int=2)}))]
        await settled()


async def test_a_new_life_knows_not_whom_the_one_before_refused(autojump_clock: object) -> None:
    store, seen = Away(), list[Message]()
    store.known, store.gone = {UUID(int=1): "h:7", UUID(int=2): "h:8"}, frozenset({UUID(int=2)})
    async with simulated() as system:
        links = await system.start(Spec("links", lambda: Recorder(seen)))
        await system.start(Spec("peers", lambda: Peers(HOST, store, links)))
        await trio.sleep(3 * EVERY)
        assert [message for message in seen if isinstance(message, Admit)] == [Admit(frozenset({UUID(int=1)}))]
        assert [message for message in seen if isinstance(message, Forget)] == [Forget(UUID(int=2), refuse=True)]


async def test_while_the_database_is_away_links_follow_gossip(autojump_clock: object) -> None:
    store, seen, dropped = Away(), list[Message](), list[frozenset[UUID]]()
    removed, came, moved = UUID(int=2), UUID(int=3), UUID(int=1)
    alive = {removed: "h:2", came: "h:3", moved: "h:9"}
    store.known, store.gone = {moved: "h:7", UUID(int=8): "h:8"}, frozenset({removed})
    async with simulated() as system:
        links = await system.start(Spec("links", lambda: Recorder(seen)))
        await system.start(Spec("peers", lambda: Peers(HOST, store, links, lambda: alive, dropped.append)))
        await trio.sleep(0.1)
        assert seen[0] == Want({moved: Address("h", 7), UUID(int=8): Address("h", 8)})
        assert dropped == [frozenset({removed})]
        store.away = True
        await trio.sleep(1.5 * EVERY)
        # Whom gossip holds alive, and whom the database knew last: not one that was removed.
        assert seen[-1] == Want({moved: Address("h", 9), came: Address("h", 3), UUID(int=8): Address("h", 8)})
        store.away = False
        await trio.sleep(1.5 * EVERY)
        assert seen[-1] == seen[0]
        assert len(dropped) == 1
        await settled()


def test_names_on_the_wire_stay() -> None:
    """Whoever changes one makes a new version beside it: hosts of the version before speak this one."""
    assert {(wire.name, wire.version, wire.lane) for wire in wire_registry()._by_type.values()} == {
        ("host.command", 1, "control"),
        ("membership.datagram", 1, "system"),
    }


async def test_a_host_that_gossip_knows_can_be_told_something_without_a_link_to_it() -> None:
    """Only a few links are kept: the leader's commands make others as they need them."""
    async with System() as system:
        board = Board(UUID(int=1), system.env.monotonic)
        linked = Linked(Address("127.0.0.1", 1), board, system)

        def member(number: int, address: str, state: State = State.ALIVE) -> Member:
            return Member(UUID(int=number), 1, 1, state, address, 1, b"", False, 0.0)

        linked.heard(Notice("joined", member(2, "127.0.0.1:7")))
        assert board.peer(UUID(int=2)).address == Address("127.0.0.1", 7)
        linked.heard(Notice("changed", member(2, "127.0.0.1:8")))
        assert board.peer(UUID(int=2)).address == Address("127.0.0.1", 8)
        linked.heard(Notice("joined", member(3, "not an address")))
        linked.heard(Notice("dead", member(4, "127.0.0.1:9", State.DEAD)))
        linked.dropped(frozenset({UUID(int=5)}))
        linked.heard(Notice("alive", member(5, "127.0.0.1:9")))
        linked.heard(Superseded(2))
        assert [board.peer(UUID(int=number)).address for number in (3, 4, 5)] == [None, None, None]


def test_fields_of_commands_stay_and_what_is_no_command_is_unreadable() -> None:
    command = Command(CommandKind.STOP, UUID(int=1), UUID(int=2), UUID(int=3), 4, 5, 6.0, force=True, stop_timeout=7.0)
    plain, registry = to_plain(command), wire_registry()
    assert plain == {
        "kind": "stop",
        "instance_id": str(UUID(int=1)),
        "placement_id": str(UUID(int=2)),
        "node_id": str(UUID(int=3)),
        "generation": 4,
        "epoch": 5,
        "deadline": 6.0,
        "force": True,
        "stop_timeout": 7.0,
    }
    assert registry.read("host.command", 1, {**plain, "of a later version": 1}) == command
    for field, bad in (
        ("kind", "explode"),
        ("placement_id", "web"),
        ("generation", "4"),
        ("epoch", None),
        ("deadline", "soon"),
        ("force", 1),
    ):
        with pytest.raises(Unreadable):
            registry.read("host.command", 1, {**plain, field: bad})
    with pytest.raises(Unreadable):
        registry.read("host.command", 1, {key: plain[key] for key in plain if key != "epoch"})
    taken = Taken(UUID(int=2), 4, 5, "running")
    assert from_plain({**to_plain(taken), "more": 1}, registry.of(Command).answer) == taken
