"""Being one of several hosts: the join, what is remembered of it, and the links that follow from it."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from uuid import UUID

import structlog
import trio

from actors.model.errors import Failed, InvalidInput, Problem, Unavailable
from runtime import ActorError, Environment, Ref, StartFailed, System
from runtime.links.board import Board
from runtime.links.frames import Hello, Identity
from runtime.links.links import Links, links
from runtime.links.remote import RemoteRef
from runtime.links.transport import Address, TlsTransport
from runtime.membership import State, over_links
from runtime.membership.driver import NAME as MEMBERSHIP
from runtime.membership.driver import Announce, Depart, Roll
from runtime.membership.driver import Membership as MembershipActor
from runtime.membership.driver import membership as member_spec
from runtime.membership.events import Member, Notice, Superseded
from runtime.spec import Spec
from zeitwork import machine, systemd
from zeitwork.advertised import remember
from zeitwork.config import Config
from zeitwork.leave import removed_here
from zeitwork.peers import Peers
from zeitwork.store import Store
from zeitwork.store.embedded import settings as embedded
from zeitwork.store.links import HostLinks
from zeitwork.store.rows import NodeRow
from zeitwork.store.trust import Trust
from zeitwork.trust import certificates, tunnel
from zeitwork.trust.bootstrap import ensure_credentials
from zeitwork.trust.files import TrustFiles, replace_file, trust_directory
from zeitwork.trust.invitation import Code
from zeitwork.trust.join import JoinDoors, join, join_address
from zeitwork.trust.reach import local_part
from zeitwork.trust.renewal import NAME as CERTIFICATES
from zeitwork.trust.renewal import Certificates
from zeitwork.trust.token import parse_token
from zeitwork.trust.unclaimed import Unclaimed
from zeitwork.wire import wire_registry

_log = structlog.get_logger().bind(part="cluster")


@dataclass(frozen=True, slots=True)
class Membership:
    """What a host that has joined remembers. ``database`` None: through the tunnel, over ``peers`` (HOST:PORT)."""

    cluster: UUID
    database: str | None
    peers: tuple[str, ...]
    advertise: str

    def __repr__(self) -> str:
        return f"<Membership of {self.cluster}>"


class MembershipFile:
    """``DATA/trust/cluster.json``, 0600: it may hold a password of the database."""

    def __init__(self, data: Path) -> None:
        self.path = trust_directory(data) / "cluster.json"

    def load(self) -> Membership | None:
        """Return what was saved, None for a host that never joined. Raises `Failed`."""
        try:
            content = json.loads(self.path.read_text())
            database = content["database"]
            if database is not None and not isinstance(database, str):
                raise ValueError("the database is no text")
            peers = tuple(str(Address.parse(peer)) for peer in content["peers"])
            return Membership(UUID(content["cluster"]), database, peers, str(Address.parse(content["advertise"])))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Failed(
                f"{self.path} can't be read: {error}",
                field="data_dir",
                fix=f"remove {self.path.parent} and join the cluster anew",
            ) from error

    def save(self, membership: Membership) -> None:
        """Replace it as a whole. Raises `OSError`."""
        content = {
            "cluster": str(membership.cluster),
            "database": membership.database,
            "peers": membership.peers,
            "advertise": membership.advertise,
        }
        replace_file(self.path, json.dumps(content))


async def membership_of(config: Config, host_id: UUID, env: Environment) -> Membership | None:
    """Return what this host is a member of; joins first when told to, or waits to be invited, and it has not yet.

    None for a first host.

    Raises a `Problem`; then nothing of the join stays but the key, with which the same token can be tried again.
    """
    saved = MembershipFile(config.data_dir)
    known = saved.load()
    if known is not None:
        if config.join is not None or config.unclaimed:
            _log.info("this host has joined before", cluster=str(known.cluster))
        return known
    if config.unclaimed:
        return await invited(config, host_id, env)
    if config.join is None:
        if config.token is not None:
            # Going on would make a database here, and no host with one can join.
            raise InvalidInput(
                "a token alone does not say which cluster it is for",
                field="join",
                fix="run the whole command that zeitwork token create printed: --join URL --token TOKEN",
            )
        return None
    if config.token is None:
        raise InvalidInput("joining needs a token", field="token", fix="zeitwork token create on a host prints one")
    _refuse_own_database(config)
    return await join_as(config, host_id, config.join, config.token)


def _refuse_own_database(config: Config) -> None:
    data = config.data_dir
    if (data / "postgres").exists():
        own = " ".join(str(data / name) for name in ("postgres", "trust", "epoch", "host-id"))
        mend = "join with another --data-dir; or, if nothing of it is wanted, remove its instances, and"
        raise InvalidInput(
            "this host has a database of its own: it has run alone, or is the first of another cluster",
            field="data_dir",
            fix=f"{mend}: rm -rf {own}",
        )


async def join_as(config: Config, host_id: UUID, url: str, token: str, node: UUID | None = None) -> Membership:
    """Join the cluster of the host at ``url``, as ``node`` if it was invited as that; remember it and return it.

    Raises a `Problem`; then nothing of the join stays but the key, with which the same token can be tried again.
    """
    key = _pending_key(config.data_dir)
    welcome, credentials = await join(
        url,
        token,
        host=host_id,
        hostname=machine.hostname(),
        key=key,
        node=node,
        database=config.database_url is not None,
    )
    address = join_address(url)
    advertise = config.advertise or str(Address(await trio.to_thread.run_sync(_own_address, address), address.port))
    membership = Membership(welcome.cluster, welcome.database, (str(address), *config.peers), advertise)
    try:
        TrustFiles(trust_directory(config.data_dir)).save(credentials)
        MembershipFile(config.data_dir).save(membership)
    except OSError as error:
        raise _not_written(trust_directory(config.data_dir), error) from error
    _pending_path(config.data_dir).unlink(missing_ok=True)
    _log.info("joined", cluster=str(welcome.cluster), through=str(address), advertise=advertise)
    return membership


async def invited(config: Config, host_id: UUID, env: Environment) -> Membership:
    """Wait until a cluster invites this host, join it, and return what is remembered of it.

    Raises a `Problem` for settings that do not go together, and when the port is taken.
    """
    if config.join is not None:
        raise InvalidInput("a host either joins or waits to be invited", field="unclaimed", fix="leave one of them out")
    if config.advertise is None:
        raise InvalidInput(
            "an unclaimed host has to say where it can be reached", field="advertise", fix="add --advertise ADDRESS"
        )
    _refuse_own_database(config)
    token = None if config.token is None else parse_token(config.token)
    address, hostname = Address.parse(config.advertise), machine.hostname()
    joined: list[Membership] = []

    async def accept(url: str, brought: str, node: UUID) -> None:
        joined.append(await join_as(config, host_id, url, brought, node))

    def say(code: Code) -> None:
        # To whoever started it, and not to the log: whoever reads this can take the host.
        sys.stdout.write(f"unclaimed, waiting at {address}. On a host of the cluster, within the hour:\n")
        sys.stdout.write(f"zeitwork nodes add {hostname} {address} {code}\n")
        sys.stdout.flush()

    waiting = Unclaimed((_listening(address), address.port), hostname, host_id, env, token=token, say=say, join=accept)
    failure: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(waiting.run, trust_directory(config.data_dir))
            # A manager that waits for a start would end one that takes as long as it takes to be invited.
            systemd.notify(f"READY=1\nSTATUS=unclaimed, waiting at {address}")
            _log.info("unclaimed", address=str(address), accepts="the code" if token is None else "its cluster")
    except* OSError as group:
        failure = group.exceptions[0]
    # Not raised above: Python before 3.11.4 makes a group of what is raised there.
    if failure is not None:
        raise Failed(
            f"can't listen at port {address.port}: {failure}",
            field="advertise",
            fix="give another port with --advertise ADDRESS:PORT",
        ) from None
    systemd.notify("STATUS=joined")
    return joined[0]


def _pending_path(data: Path) -> Path:
    return trust_directory(data) / "joining.pem"


def _pending_key(data: Path) -> str:
    """Return the key to join with: kept until that has worked, since an answer may get lost. Raises `Failed`."""
    path = _pending_path(data)
    try:
        kept = path.read_text()
        certificates.request(kept)
    except FileNotFoundError:
        pass
    except ValueError as error:
        # Nobody has joined with what is no key.
        _log.warning("the key of a join that was begun can't be used: another one is made", error=str(error))
    else:
        return kept
    made = certificates.new_key()
    try:
        replace_file(path, made)
    except OSError as error:
        raise _not_written(path.parent, error) from error
    return made


def _not_written(directory: Path, error: OSError) -> Failed:
    return Failed(
        f"{directory} can't be written to: {error.strerror or error}",
        field="data_dir",
        fix="make room there, or see who owns it; then try again with the same token",
    )


def _own_address(towards: Address) -> str:
    """Return this machine's address on the way to another; nothing is sent. Raises `Failed`."""
    try:
        family, kind, _, _, where = socket.getaddrinfo(towards.host, towards.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(where)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise Failed(
            f"no way to {towards}: {error}", field="advertise", fix="say with --advertise how others reach this host"
        ) from None


@asynccontextmanager
async def tunnelled(config: Config, membership: Membership, removed: trio.Event) -> AsyncIterator[str]:
    """Yield the DSN of the cluster's embedded Postgres, which another host has.

    ``removed`` is set when this host is let through no more; what fails by that becomes a `Conflict` that says so.
    """
    directory = config.paths.run / "database"
    files = TrustFiles(trust_directory(config.data_dir))
    # Given ones first: the database may have been brought back on another machine since this host joined.
    addresses = tuple(map(Address.parse, dict.fromkeys((*config.peers, *membership.peers))))

    def known() -> Sequence[Address]:
        return addresses

    way = tunnel.Tunnel(socket_of(directory), known, files.contexts, membership.cluster, removed.set)
    async with way.running():
        try:
            yield embedded.dsn(directory)
        except Problem as problem:
            if removed.is_set():
                raise removed_here() from problem
            if problem.field == "database_url" and way.unreached is not None:
                # Nobody gave this host a DSN: what there is to look at is the host that has the database.
                raise Unavailable(
                    f"the cluster's database is on another host, which is not reached ({way.unreached})",
                    code="database-unreachable",
                    fix="start zeitwork run there first; where it has another address now: --peers ADDRESS here; "
                    "if the database was moved: --database-url; if lost: zeitwork db restore on another machine",
                ) from problem
            raise


def socket_of(directory: Path) -> Path:
    """Return the unix socket of a Postgres, or a tunnel to one, in that directory."""
    return directory / f".s.PGSQL.{embedded.PORT}"


class Linked:
    """What a host that is linked with others can reach. ``address`` is where others reach it."""

    def __init__(self, address: Address, board: Board, system: System) -> None:
        self.address = address
        self._board = board
        self._system = system
        #: What others are told of this host: the next life of the actor is to say the same.
        self.meta = b""
        #: Hosts that were removed from the cluster. Gossip remembers them for a while, as dead ones.
        self.removed: frozenset[UUID] = frozenset()
        #: The present life of the actor, for those who can't wait for an answer of it.
        self._membership: MembershipActor | None = None

    def actor(self, node: UUID, name: str) -> Ref:
        """Return a ref to an actor of that host, which may be this one."""
        return self._system.name(name) if node == self._board.host else RemoteRef(self._board, node, name)

    def members(self) -> tuple[Member, ...]:
        """Return every other host that gossip knows, those that are dead or have left for a while too."""
        if self._membership is None:
            return ()
        return tuple(member for member in self._membership.members() if member.host not in self.removed)

    def roll(self) -> Roll | None:
        """Return everybody that gossip knows, this host included; None before there is any membership."""
        if self._membership is None:
            return None
        return replace(self._membership.roll(), others=self.members())

    def announce(self, meta: bytes) -> bool:
        """Have others told this of this host; False when they can't be told now."""
        try:
            self._system.name(MEMBERSHIP).tell(Announce(meta))
        except ActorError:
            return False
        self.meta = meta
        return True

    def addresses(self) -> dict[UUID, str]:
        """Return where hosts are reached that are alive as far as gossip knows."""
        return {member.host: member.address for member in self.members() if member.state is State.ALIVE}

    def heard(self, notice: Notice | Superseded) -> None:
        """Take note of what gossip says. Where a host is reached is learnt: a link is made when one is needed."""
        if isinstance(notice, Superseded):
            _log.error("a later start of this host is a member", generation=notice.generation)
            return
        member = notice.member
        if notice.kind != "changed":
            _log.info("membership", host=str(member.host), notice=notice.kind)
        if member.state is State.ALIVE and member.host not in self.removed:
            try:
                self._board.learn(member.host, Address.parse(member.address))
            except ValueError:
                _log.warning("a host's address can't be used", host=str(member.host), address=member.address[:100])

    def dropped(self, removed: frozenset[UUID]) -> None:
        """Take note of all hosts that were removed from the cluster."""
        self.removed = removed

    async def depart(self) -> None:
        """Tell the others that this host goes on purpose: nobody needs to suspect it. Takes two seconds at most."""
        try:
            await self._system.name(MEMBERSHIP).ask(Depart(), timeout=2.0)
        except ActorError as error:
            _log.info("the others are not told that this host goes", reason=str(error))

    def follow(self, membership: MembershipActor) -> MembershipActor:
        """Take a new life of the membership actor as the present one, and return it."""
        self._membership = membership
        return membership


async def start_links(
    config: Config,
    membership: Membership | None,
    advertise: str,
    store: Store,
    system: System,
    node: NodeRow,
    host_id: UUID,
    env: Environment,
) -> Linked:
    """Start the actors that link this host with others; return what can be reached by it. Raises a `Problem`.

    ``advertise`` is where others reach it; it is remembered once the links are open.
    """
    address = Address.parse(advertise)
    trust, files = Trust(store.units), TrustFiles(trust_directory(config.data_dir))
    cluster = (await store.cluster.identity()).id
    await ensure_credentials(files, node.id, trust.sign, authority=await trust.authority(), now=env.now())
    database = config.database_url or (membership.database if membership else None)
    if database is not None and (found := local_part(database)) is not None:
        _log.warning(
            "hosts on other machines can't join through this one: its DSN is of this machine only",
            names=found,
            fix="start it with a --database-url that names the database's machine",
        )
    doors = dict(JoinDoors(trust, node.id, database, env.monotonic, machine=host_id).doors())
    if database is None:
        own = config.paths.run / ("postgres" if membership is None else "database")
        doors[tunnel.PATH] = tunnel.door(socket_of(own))
    registry, board = wire_registry(), Board(node.id, env.monotonic)
    tls = TlsTransport(
        _listening(address), address.port, files.contexts, lambda shown: certificates.prove(shown, cluster)
    )
    local = Hello(cluster, Identity(node.id, node.generation))
    receiver = over_links.LinkReceiver(board, system, registry)
    await system.start(Spec(CERTIFICATES, lambda: Certificates(node.id, files, trust.sign)))
    try:
        ref = await system.start(links(partial(Links, board, tls, local, registry, receiver, doors=doors)))
    except StartFailed as error:
        raise Failed(
            f"links can't listen at port {address.port}: {error.__cause__}",
            field="advertise",
            fix="give another port with --advertise ADDRESS:PORT",
        ) from error
    host_links = HostLinks(store.units)
    await host_links.announce(node.id, str(address))
    try:
        await trio.to_thread.run_sync(remember, config, membership, str(address))
    except OSError as error:
        _log.warning("the address that others reach this host at is not remembered", reason=str(error))
    linked = Linked(address, board, system)
    await system.start(
        Spec("peers", lambda: Peers(node.id, host_links, system.name(ref.name), linked.addresses, linked.dropped))
    )
    seeds = {*(membership.peers if membership else ()), *config.peers, *(await host_links.others(node.id)).values()}
    members, courier = system.name(MEMBERSHIP), system.name(over_links.NAME)
    await system.start(Spec(over_links.NAME, lambda: over_links.Courier(board, system.name(ref.name), members)))
    transport = over_links.LinkTransport(board, courier)
    advertised, known = str(address), sorted(seeds - {str(address)})

    def member() -> MembershipActor:
        meta = linked.meta
        return MembershipActor(node.id, node.generation, advertised, transport, linked.heard, seeds=known, meta=meta)

    await system.start(member_spec(lambda: linked.follow(member())))
    return linked


def _listening(address: Address) -> str | None:
    """Return where to listen: on loopback if that is what is advertised, else on all interfaces (TLS only)."""
    try:
        loopback = ip_address(address.host).is_loopback
    except ValueError:
        loopback = address.host == "localhost"
    return address.host if loopback else None
