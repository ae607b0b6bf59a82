"""Takes back what setup did: the manifest's entries, last one first, and with ``--purge`` the data as well."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.model.errors import Conflict, Failed
from zeitwork.setup import forwarding, network
from zeitwork.setup.apt import Apt
from zeitwork.setup.execute import OF_PACKAGES, QUICK, account_ids
from zeitwork.setup.holders import holders, virtual_machines
from zeitwork.setup.layout import Layout
from zeitwork.setup.manifest import Entry, Kind, Manifest
from zeitwork.setup.options import SetupOptions
from zeitwork.setup.tools import Tools
from zeitwork.store.system_user import POSTGRES_USER

Line = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Removal:
    """One thing that goes: what it is called, and the entries that it undoes."""

    name: str
    text: str
    entries: tuple[Entry, ...] = ()


def refuse_while_used(options: SetupOptions) -> None:
    """Raise `Conflict` naming the processes that use what would go: a host, its Postgres, VMs of any host."""
    found = holders((options.home, options.paths.data, options.paths.run), options.layout.processes)
    pids = {holder.pid for holder in found}
    found += tuple(vm for vm in virtual_machines(options.layout.processes) if vm.pid not in pids)
    if found:
        # One for each thing: a database has many processes.
        shown = list({holder.what: holder for holder in reversed(found)}.values())[::-1]
        more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
        raise Conflict(
            f"in use by {'; '.join(str(holder) for holder in shown[:5])}{more}",
            code="in-use",
            fix="zeitwork rm the instances, end zeitwork run (systemctl stop zeitwork), then try again; "
            "what a killed demo left goes with zeitwork demo --once",
        )


def plan_removal(
    manifest: Manifest, options: SetupOptions, *, purge: bool, network_left: bool = False
) -> tuple[Removal, ...]:
    """Return what goes, in the order in which it goes. ``network_left``: a host left something in the network."""
    entries = manifest.entries[::-1]
    packages = tuple(entry for entry in entries if entry.kind == "package")
    directories = tuple(entry for entry in entries if entry.kind == "directory")
    accounts = tuple(entry for entry in entries if entry.kind in ("user", "group"))
    rest = tuple(entry for entry in entries if entry not in (*packages, *directories, *accounts))
    database_stays = not purge and options.paths.postgres.exists()
    data = data_paths(manifest, options) if purge else ()
    inside = tuple(entry for entry in rest if any(Path(entry.subject).is_relative_to(path) for path in data))
    removals = [
        Removal(f"{entry.kind} {entry.subject}", _sentence(entry), (entry,)) for entry in rest if entry not in inside
    ]
    if data:
        removals.insert(0, Removal("data", f"delete for good: {', '.join(str(path) for path in data)}", inside))
    if network_left:  # needs nft, and a record among the data
        sentence = (
            f"take away what a host left in the network: TAPs, the rules of inet {options.table}, kernel settings"
        )
        removals.insert(0, Removal("network", sentence))
    if packages:
        names = ", ".join(sorted(entry.subject for entry in packages))
        removals.append(Removal("packages", f"purge packages, as far as nothing else needs them: {names}", packages))
    # Accounts after the files that they own.
    for entry in accounts:
        if not (database_stays and entry.subject == POSTGRES_USER):
            removals.append(Removal(f"{entry.kind} {entry.subject}", _sentence(entry), (entry,)))
    # The data directory holds the manifest, so it goes at the very end.
    if directories and (purge or removals):
        removals.append(
            Removal("directories", "remove the directories that setup made and that are empty", directories)
        )
    return tuple(removals)


def _sentence(entry: Entry) -> str:
    match entry.kind:
        case "service":
            return f"disable the service {entry.subject}"
        case "sysctl":
            return f"set {entry.subject} back to {entry.before}"
        case "user" | "group":
            return f"remove the system {entry.kind} {entry.subject}"
        case _:
            return f"remove {entry.subject}"


def data_paths(manifest: Manifest, options: SetupOptions) -> tuple[Path, ...]:
    """Return what ``--purge`` deletes: all in a data directory that setup made, else only what a host puts there."""
    home = options.home
    if manifest.find("directory", str(home)) and home.is_dir():
        inside = tuple(path for path in sorted(home.iterdir()) if path != options.manifest)
    else:
        inside = tuple(path for path in owned(options) if path.exists())
    return (*inside, *((options.paths.run,) if options.paths.run.exists() else ()))


def owned(options: SetupOptions) -> tuple[Path, ...]:
    """Return what a host keeps in its data directory, which may hold other things that were there before."""
    paths = options.paths
    return (
        paths.postgres,
        paths.images,
        paths.spool,
        paths.placements,
        paths.guest,
        paths.bin,
        options.hello,
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether a change is undone (its entry can be dropped), and what a person should know about it."""

    gone: bool
    note: str | None = None


GONE = Outcome(True)


def kept(note: str | None) -> Outcome:
    """Return that a change has to stay for now."""
    return Outcome(False, note)


class Remover:
    """Takes things away from this machine."""

    def __init__(self, options: SetupOptions, tools: Tools, manifest: Manifest, *, purge: bool) -> None:
        self._options = options
        self._layout: Layout = options.layout
        self._tools = tools
        self._manifest = manifest
        self._purge = purge
        self._stayed: tuple[str, ...] = ()

    def undo(self, removal: Removal, line: Line) -> tuple[str, ...]:
        """Take one thing away; returns sentences about what was kept, and why. Raises a `Problem` when it can't be."""
        if removal.name == "data":
            return self._data(removal.entries)
        if removal.name == "network":
            network.clear(self._options)
            return ()
        if removal.name == "packages":
            return self._packages(removal.entries, line)
        notes: list[str] = []
        for entry in removal.entries:
            outcome = self._undo(entry)
            if outcome.gone:
                self._manifest.forget((entry.kind, entry.subject))
            if outcome.note is not None:
                notes.append(outcome.note)
        return tuple(notes)

    def _undo(self, entry: Entry) -> Outcome:
        subject = Path(entry.subject)
        match entry.kind:
            case "service":
                self._run_if_there(["systemctl", "disable", "--now", entry.subject])
                return GONE
            case "file" | "module":
                return self._file(subject, entry.mark)
            case "tree":
                shutil.rmtree(subject, ignore_errors=True)
                return kept(f"{subject} could not be removed") if subject.exists() else GONE
            case "sysctl":
                return self._sysctl(entry)
            case "user":
                return self._user(entry)
            case "group":
                return self._account(self._layout.group, entry, ["groupdel", entry.subject])
            case "directory":
                return self._directory(subject)
            case "package":
                raise AssertionError("packages go together")

    def _data(self, entries: Sequence[Entry]) -> tuple[str, ...]:
        left = []
        for path in data_paths(self._manifest, self._options):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            if path.exists():
                left.append(f"{path} could not be removed")
        self._manifest.forget(*((entry.kind, entry.subject) for entry in entries if not Path(entry.subject).exists()))
        return tuple(left)

    def _file(self, path: Path, mark: str | None) -> Outcome:
        if not path.exists():
            return GONE
        # Only files of the machine (settings, the service) have a mark; a person may have edited those.
        if mark is not None and hashlib.sha256(path.read_bytes()).hexdigest() != mark:
            return Outcome(True, f"{path} stays: it was edited after setup wrote it")
        path.unlink()
        if path == self._layout.unit:
            self._run_if_there(["systemctl", "daemon-reload"])
        return GONE

    def _sysctl(self, entry: Entry) -> Outcome:
        file = self._layout.sysctl(entry.subject)
        try:
            # Another value means that somebody set it since: theirs now. A missing file, that the interface is gone.
            if entry.before is None or entry.before == entry.mark or file.read_text().strip() != entry.mark:
                return GONE
        except OSError:
            return GONE
        if forwarding.set_elsewhere(self._layout, entry.subject, entry.mark or "1"):
            return GONE  # the machine's own configuration wants it
        other = forwarding.forwards_for_others(self._layout)
        if other is not None:
            return Outcome(True, f"{entry.subject} stays {entry.mark} until the next boot: {other} needs it")
        try:
            file.write_text(entry.before)
        except OSError as error:
            return Outcome(True, f"{entry.subject} stays {entry.mark} until the next boot: {error.strerror}")
        return GONE

    def _user(self, entry: Entry) -> Outcome:
        database = self._options.paths.postgres
        if entry.subject == POSTGRES_USER and database.exists():
            return kept(f"the user {entry.subject} stays: it owns the database in {database} (--purge)")
        return self._account(self._layout.passwd, entry, ["userdel", entry.subject])

    def _account(self, file: Path, entry: Entry, argv: Sequence[str]) -> Outcome:
        if entry.before == OF_PACKAGES and self._stayed:
            return GONE  # theirs who need the package now
        number = account_ids(file).get(entry.subject)
        if number is None:
            return GONE
        if entry.mark is not None and number != entry.mark:
            return Outcome(True, f"{entry.kind} {entry.subject} stays: it is not the one that setup made")
        ran = self._tools.run(argv, timeout=QUICK)
        if entry.subject in account_ids(file):
            return kept(f"{entry.kind} {entry.subject} stays: {ran.last_words}")
        return GONE

    def _directory(self, path: Path) -> Outcome:
        """A directory goes when it is empty. Without ``--purge`` data is meant to stay, and the entry waits for it."""
        if not path.is_dir():
            return GONE
        rest = {item.name for item in path.iterdir()}
        waiting = len(self._manifest.entries) > 1
        if path == self._options.home and rest <= {self._options.manifest.name} and not waiting:
            # The last entry of the manifest is that of the directory that it lies in: both go together.
            self._manifest.forget(("directory", str(path)))
            rest = set()
        if rest:
            return kept(f"{path} stays: it holds {', '.join(sorted(rest)[:5])}" if self._purge else None)
        path.rmdir()
        return GONE

    def _packages(self, entries: Sequence[Entry], line: Line) -> tuple[str, ...]:
        apt = Apt(self._tools, self._layout.package_lists)
        if not all(entry.done for entry in entries):
            apt.repair(line)
        going, staying = apt.removable(
            [entry.subject for entry in entries],
            [entry.subject for entry in entries if entry.mark == "requested"],
        )
        older = [entry.subject for entry in entries if entry.before == "configuration"]
        apt.remove(going, older, line)
        self._stayed = staying
        left = set(going) & apt.installed()
        if left:
            raise Failed(f"apt did not remove {', '.join(sorted(left))}", fix="apt-get check")
        keys: list[tuple[Kind, str]] = [("package", entry.subject) for entry in entries]
        self._manifest.forget(*keys)
        return (f"packages that something else needs by now stay: {', '.join(staying)}",) if staying else ()

    def _run_if_there(self, argv: Sequence[str]) -> None:
        if self._tools.which(argv[0]):
            self._tools.run(argv, timeout=QUICK)
