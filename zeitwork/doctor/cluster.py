"""What a host needs of others: its address, certificate and clock, the way to its peers, and a database that lasts."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from uuid import UUID

import psutil
import psycopg
from psycopg import ProgrammingError, conninfo

from actors.model.errors import Failed
from runtime.links.transport import Address, Untrusted
from zeitwork.advertised import advertised
from zeitwork.cluster import Membership, MembershipFile
from zeitwork.config import DEFAULT_FILE
from zeitwork.doctor.check import Check, Patient, fail, ok, warn
from zeitwork.doctor.storage import lock_holder
from zeitwork.store.embedded import settings
from zeitwork.store.embedded.holding import moved_to
from zeitwork.trust import certificates, tunnel
from zeitwork.trust.files import TrustFiles, trust_directory

#: Seconds to reach another host, and how many of them are tried; seconds for the database to answer.
_REACH, _MOST_PEERS, _ANSWER = 1.5, 8, 2
#: Seconds by which clocks may differ before it is told; certificates allow for five minutes.
_SKEW_TOLD, _SKEW_WRONG = 5.0, 240.0
#: The part of a certificate's life by which a host that runs has renewed it.
_RENEWED_BY = 0.6
#: Seconds of the authority's life that are left when it is told.
_AUTHORITY_LEFT = 180 * 24 * 3600.0
_DAY = 24 * 3600.0


def links(patient: Patient) -> list[Check]:
    """Where others reach this host: its own address, and a port that is this host's or free."""
    membership, refusal = _membership(patient)
    if refusal is not None:
        return refusal
    try:
        text = advertised(patient.config, membership)
    except Failed as unreadable:
        return fail("links", unreadable.detail, unreadable.fix)
    if text is None:
        return ok("links", "none: this host is alone (zeitwork run --advertise ADDRESS lets others join)")
    address = _parse(text)
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(address.host, None, type=socket.SOCK_STREAM)}
    except OSError as error:
        return fail("links", f"{address.host} can't be looked up: {error.strerror}", "--advertise an IP address")
    if any(ip_address(one.partition("%")[0]).is_loopback for one in found):
        return warn(
            "links", f"{address} is on loopback: no other machine reaches it", "--advertise this machine's address"
        )
    own = {entry.address.partition("%")[0] for entries in psutil.net_if_addrs().values() for entry in entries}
    if not found & own:
        return warn(
            "links",
            f"{address} is no address of this machine: right only where something forwards it here",
            f"--advertise one of {', '.join(_usable()) or 'its own'}",
        )
    if lock_holder(patient.config.data_dir / "lock") is None:
        return _port(address)
    problem = _reached(patient, address)
    if problem is None:
        return ok("links", f"{address} answers, with a certificate of this cluster")
    return warn("links", f"this host runs, but at {address}: {problem}", f"let {address.port}/tcp through to it")


def certificate(patient: Patient) -> list[Check]:
    """The host's certificate: there, its own, valid and renewed in time."""
    membership, refusal = _membership(patient)
    if refusal is not None:
        return []

    name, files = "certificate", TrustFiles(trust_directory(patient.config.data_dir))
    try:
        known = files.load()
    except Failed as problem:
        return fail(name, problem.detail, problem.fix)
    if known is None:
        if membership is not None:
            return fail(name, f"{files.path} is missing", f"rm -r {files.directory}, and join the cluster anew")
        return ok(name, "none yet; made when links are first opened")
    if files.path.stat().st_mode & 0o077:
        return fail(name, f"others may read {files.path}", f"chmod 600 {files.path}")
    now = time.time()
    since, until = certificates.validity(known.certificate)
    left = (until - now) / _DAY
    if now < since:
        return fail(name, "not valid yet: this machine's clock is behind", "set the clock (apt-get install chrony)")
    if now >= until:
        if membership is not None and patient.config.database_url is None and membership.database is None:
            fix = f"rm -r {files.directory}, and join again: zeitwork token create on another host prints the command"
            return fail(name, f"ended {-left:.1f} days ago, and it leads to the database", fix)
        return warn(name, f"ended {-left:.1f} days ago; the next zeitwork run makes another one")
    running = lock_holder(patient.config.data_dir / "lock") is not None
    if running and now > since + (until - since) * _RENEWED_BY:
        return warn(name, f"ends in {left:.1f} days and was not renewed in time", "look for `certificate` in the log")
    authority = certificates.validity(known.authority)[1] - now
    if authority < _AUTHORITY_LEFT:
        return warn(name, f"the cluster's authority ends in {authority / _DAY:.0f} days")
    return ok(name, f"valid for {left:.1f} days" + (", renews itself" if running else ""))


def peers(patient: Patient) -> list[Check]:
    """The way to other hosts that this one was told of."""
    membership, refusal = _membership(patient)
    if refusal is not None:
        return []
    told = (*(membership.peers if membership else ()), *patient.config.peers)
    addresses = [_parse(text) for text in dict.fromkeys(told)][:_MOST_PEERS]
    if not addresses:
        return []
    with ThreadPoolExecutor(max_workers=len(addresses), thread_name_prefix="doctor peer") as pool:
        problems = list(pool.map(lambda address: _reached(patient, address), addresses))
    lost = [f"{address}: {problem}" for address, problem in zip(addresses, problems, strict=True) if problem]
    if not lost:
        return ok("peers", f"{', '.join(map(str, addresses))} answer{'s' if len(addresses) == 1 else ''}")
    fix = (
        "look whether zeitwork run is up there, and let its port through firewalls; "
        "where it has another address now: zeitwork run --peers ADDRESS"
    )
    tunnelled = membership is not None and membership.database is None and patient.config.database_url is None
    # Only what leads to the database is needed to run.
    needed = tunnelled and len(lost) == len(addresses)
    return (fail if needed else warn)("peers", "; ".join(lost), fix)


def removed(patient: Patient) -> list[Check]:
    """Whether the cluster knows this host no more; one that runs finds out by itself, and ends."""
    membership, refusal = _membership(patient)
    dsn = patient.config.database_url or (membership.database if membership else None)
    if refusal is not None or lock_holder(patient.config.data_dir / "lock") is not None:
        return []
    if dsn is not None:
        gone = _terminated(dsn, patient.config.data_dir / "host-id")
    elif membership is not None:
        addresses = [_parse(text) for text in dict.fromkeys((*membership.peers, *patient.config.peers))][:_MOST_PEERS]
        with ThreadPoolExecutor(max_workers=max(1, len(addresses)), thread_name_prefix="doctor removed") as pool:
            answers = list(pool.map(lambda address: _shut_out(patient, address), addresses))
        gone = bool(answers) and all(answers)
    else:
        return []
    if not gone:
        return []
    return fail(
        "cluster",
        "this host was removed from the cluster, which refuses it",
        "zeitwork leave --force makes this machine one that can join anew",
    )


def _terminated(dsn: str, host_id: Path) -> bool:
    """Tell whether the database says that this machine's host is no more; what can't be known is others' to say."""
    try:
        own = UUID(host_id.read_text().strip())
        with psycopg.connect(dsn, connect_timeout=2, application_name="zeitwork doctor", autocommit=True) as connection:
            connection.execute("set statement_timeout = '2s'")
            found = connection.execute("select from nodes where host_id = %s and state = 'terminated'", (own,))
            return found.fetchone() is not None
    except (OSError, ValueError, psycopg.Error):
        return False


def _shut_out(patient: Patient, address: Address) -> bool:
    """Tell whether a host of the cluster lets this one through to the database no more, as the tunnel asks it to."""
    key = base64.b64encode(os.urandom(16)).decode()
    asked = (
        f"GET {tunnel.PATH} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    )
    try:
        contexts = TrustFiles(trust_directory(patient.config.data_dir)).contexts()
        with (
            socket.create_connection((address.host, address.port), timeout=_REACH) as plain,
            contexts.client.wrap_socket(plain) as secured,
        ):
            secured.sendall(asked.encode())
            return secured.recv(12) == b"HTTP/1.1 403"
    except (OSError, Failed):
        return False


def clock_skew(patient: Patient) -> list[Check]:
    """How far this clock is from the database's, which all hosts have in common."""

    membership, refusal = _membership(patient)
    dsn = patient.config.database_url or (membership.database if membership else None)
    if refusal is not None or (dsn is None and membership is None):
        return []  # the database is on this machine, and its clock is this one
    if dsn is None:
        directory = patient.config.paths.run / "database"
        if not (directory / f".s.PGSQL.{settings.PORT}").exists():
            return []  # this host does not run
        dsn = settings.dsn(directory)

    try:
        with psycopg.connect(
            dsn, connect_timeout=_ANSWER, application_name="zeitwork doctor", autocommit=True
        ) as connection:
            connection.execute(f"set statement_timeout = '{_ANSWER}s'".encode())
            before = time.time()
            row = connection.execute("select extract(epoch from clock_timestamp())::float").fetchone()
            after = time.time()
    except psycopg.Error as error:
        return warn("clock skew", f"not known: the database does not answer ({' '.join(str(error).split())[:200]})")
    assert row is not None
    # It was read there between the two.
    skew = max(before - row[0], row[0] - after, 0.0)
    if skew < _SKEW_TOLD:
        return ok("clock skew", f"{skew:.1f} s from the database's clock, at least")
    detail = f"this clock and the database's differ by {skew:.0f} s"
    if skew < _SKEW_WRONG:
        return warn("clock skew", detail, "let both be kept right (apt-get install chrony)")
    return fail("clock skew", f"{detail}: certificates of one are not valid for the other", "set the wrong one")


def one_server(patient: Patient) -> list[Check]:
    """Whether the cluster's data outlive the machine that they are on."""

    membership, refusal = _membership(patient)
    dsn = patient.config.database_url or (membership.database if membership else None)
    if dsn is not None:
        return _own_postgres(dsn, linked=membership is not None or _has_links(patient))
    if refusal is not None:
        return []
    move = "zeitwork db move --to DSN moves it to a replicated Postgres; until then zeitwork db backup FILE, each night"
    if membership is not None:
        where = ", ".join(membership.peers)
        lost = "while that host is away nothing new starts; if it is lost, so is what was not backed up"
        return warn("one database", f"the cluster's Postgres is one server, on the host at {where}: {lost}", move)
    where_to = moved_to(patient.config.paths.postgres)
    if where_to is not None:
        return fail(
            "one database",
            f"the cluster's database was moved to {where_to}, and no database_url is set",
            "set database_url in /etc/zeitwork/zeitwork.toml",
        )
    if not _has_links(patient):
        return ok("one database", "embedded Postgres is one server; zeitwork db backup FILE keeps a copy")
    lost = "if this host is lost, so is what every host needs to start anything, but for a backup"
    return warn("one database", f"the cluster's Postgres is one server, on this host: {lost}", move)


def _own_postgres(dsn: str, *, linked: bool) -> list[Check]:

    try:
        values = conninfo.conninfo_to_dict(dsn)
    except ProgrammingError:
        return []  # `database` says so
    hosts = [one for one in str(values.get("host") or values.get("hostaddr") or "").split(",") if one]
    if linked and (not hosts or any(one.startswith("/") or one in ("localhost", "127.0.0.1", "::1") for one in hosts)):
        return warn(
            "one database",
            "the database's address means this machine only, and hosts that join are given it as it is",
            "give an address in database_url that all hosts reach",
        )
    if len(hosts) > 1 and values.get("target_session_attrs") not in ("read-write", "primary"):
        return warn(
            "one database", "several servers, of which a standby may be taken", "add target_session_attrs=read-write"
        )
    if values.get("password") and _readable_file():
        return warn("one database", "others may read the database's password", f"chmod 600 {_readable_file()}")
    if len(hosts) > 1:
        return ok("one database", f"{len(hosts)} servers, of which the one that takes writes is used")
    return ok("one database", "your own Postgres, one address: whether a standby follows it is known there")


def _readable_file() -> str | None:

    try:
        return str(DEFAULT_FILE) if DEFAULT_FILE.stat().st_mode & 0o044 else None
    except OSError:
        return None


def _membership(patient: Patient) -> tuple[Membership | None, list[Check] | None]:
    """Return what this host is a member of, and what to say where that can't be known."""

    directory = trust_directory(patient.config.data_dir)
    if os.geteuid() != 0 and directory.exists() and not os.access(directory, os.R_OK | os.X_OK):
        return None, ok("links", "only root may look at them")
    try:
        return MembershipFile(patient.config.data_dir).load(), None
    except Failed as problem:
        return None, fail("links", problem.detail, problem.fix)


def _has_links(patient: Patient) -> bool:
    """Whether a first host was ever told where others reach it; what can't be read is `links`' to say."""
    try:
        return advertised(patient.config, None) is not None
    except Failed:
        return True


def _parse(text: str) -> Address:

    return Address.parse(text)


def _usable() -> list[str]:
    """Return a few of this machine's addresses that others may reach."""
    found = []
    for interface, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if entry.family not in (socket.AF_INET, socket.AF_INET6) or interface == "lo":
                continue
            one = ip_address(entry.address.partition("%")[0])
            if not one.is_loopback and not one.is_link_local:
                found.append(str(one))
    return found[:3]


def _port(address: Address) -> list[Check]:
    try:
        with socket.create_server(("", address.port), family=socket.AF_INET):
            pass
    except OSError as error:
        return fail(
            "links", f"port {address.port} can't be had: {error.strerror}", f"--advertise {address.host}:OTHERPORT"
        )
    return ok("links", f"{address}, port {address.port} is free; not running, so whether others reach it is not known")


def _reached(patient: Patient, address: Address) -> str | None:
    """Return why a host of this cluster does not answer there, None when it does."""

    try:
        own = TrustFiles(trust_directory(patient.config.data_dir))
        known = own.load()
        named = certificates.named(known.certificate) if known is not None else None
        with socket.create_connection((address.host, address.port), timeout=_REACH) as plain:
            if named is None:
                return None  # it answers; who it is can't be told yet
            with own.contexts().client.wrap_socket(plain) as secured:
                certificates.host_of(secured.getpeercert() or {}, named[0])
    except (Failed, Untrusted) as problem:
        return getattr(problem, "detail", None) or str(problem)
    except ssl.SSLError as error:
        return f"TLS failed ({error.reason or error}): another cluster's, or a clock that is wrong"
    except TimeoutError:
        return f"no answer within {_REACH:g} s"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return None


LOOKS = (links, certificate, removed, peers, clock_skew, one_server)
