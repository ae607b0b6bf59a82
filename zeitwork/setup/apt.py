"""Debian packages: what apt would do, and how to take back only what it did for us."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.model.errors import Failed, Unavailable
from zeitwork.setup.tools import Ran, Tools

#: Seconds. Downloads of a slow mirror; apt itself gives up on a dead one.
INSTALL_TIMEOUT = 1800.0
ASK_TIMEOUT = 60.0
#: Lists older than this are fetched again before an install: a mirror drops old versions within days.
LISTS_FRESH = 24 * 3600.0
#: How often, a second apart, dpkg is asked while another one holds its lock.
LOCK_TRIES = 180

_GET = ("apt-get", "-y", "-q", "-o", "DPkg::Lock::Timeout=120", "-o", "Dpkg::Use-Pty=0")
#: A package that merely recommends or suggests another one did without it before setup.
_NEED = ("-o", "APT::AutoRemove::RecommendsImportant=false", "-o", "APT::AutoRemove::SuggestsImportant=false")
INSTALL = (*_GET, "install", "--no-install-recommends")


@dataclass(frozen=True, slots=True)
class Simulation:
    """What apt says that it would do."""

    new: tuple[str, ...]
    upgraded: tuple[str, ...]
    removed: tuple[str, ...]


def parse_simulation(output: str) -> Simulation:
    """Return the packages named by ``apt-get --simulate``: ``Inst name [old] (new …)`` and ``Remv name [old]``."""
    new, upgraded, removed = [], [], []
    for line in output.splitlines():
        match = re.match(r"(Inst|Remv|Purg) (\S+)( \[)?", line)
        if match is None:
            continue
        verb, name, had = match.groups()
        name = name.split(":")[0]
        if verb != "Inst":
            removed.append(name)
        elif had:
            upgraded.append(name)
        else:
            new.append(name)
    return Simulation(tuple(new), tuple(upgraded), tuple(removed))


def lists_age(lists: Path, now: float) -> float | None:
    """Return how old apt's package lists are, in seconds; None when there are none."""
    try:
        times = [entry.stat().st_mtime for entry in lists.iterdir() if "_Packages" in entry.name]
        times += [entry.stat().st_mtime for entry in (lists / "partial",) if times and entry.exists()]
    except OSError:
        return None
    return max(0.0, now - max(times)) if times else None


class Apt:
    """The package tools of this machine."""

    def __init__(
        self,
        tools: Tools,
        lists: Path,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._tools = tools
        self._lists = lists
        self._now = now

    def refresh(self, line: Callable[[str], None], *, force: bool = False) -> None:
        """Fetch the package lists when there are none or old ones. Raises `Unavailable` in apt's own words."""
        age = lists_age(self._lists, self._now())
        if not force and age is not None and age < LISTS_FRESH:
            return
        ran = self._tools.run([*_GET, "update"], timeout=INSTALL_TIMEOUT, line=line)
        if not ran.ok:
            raise Unavailable(f"apt-get update: {ran.last_words}", fix="apt-get update")

    def would_install(self, packages: Sequence[str]) -> Simulation:
        """Return what an install would change. Raises `Unavailable` when apt can't."""
        simulation = self.try_install(packages)
        if simulation is None:
            raise Unavailable("apt can't install " + ", ".join(packages), fix=f"apt-get install {' '.join(packages)}")
        return simulation

    def try_install(self, packages: Sequence[str]) -> Simulation | None:
        """Return what an install would change, None when apt can't say (yet)."""
        ran = self._tools.run([*INSTALL, "--simulate", *packages], timeout=ASK_TIMEOUT)
        return parse_simulation(ran.output) if ran.ok else None

    def install(self, packages: Sequence[str], line: Callable[[str], None]) -> None:
        """Install packages. Lists can name files that the mirror dropped: a failure is tried again after an update."""
        ran = self._change([*INSTALL, *packages], line)
        if not ran.ok:
            self.refresh(line, force=True)
            ran = self._change([*INSTALL, *packages], line)
        if not ran.ok:
            raise Unavailable(f"apt-get install: {ran.last_words}", fix=f"apt-get install {' '.join(packages)}")

    def installed(self) -> frozenset[str]:
        """Return the names of all packages that are on the machine now, those that were cut short included."""
        gone = (" not-installed", " config-files")
        ran = self._query("-f", "${Package} ${db:Status-Status}\n")
        return frozenset(line.split()[0] for line in ran.output.splitlines() if not line.endswith(gone))

    def leftovers(self) -> frozenset[str]:
        """Return the names of packages that are removed but whose configuration somebody kept."""
        ran = self._query("-f", "${Package} ${db:Status-Status}\n")
        return frozenset(line.split()[0] for line in ran.output.splitlines() if line.endswith(" config-files"))

    def removable(self, ours: Iterable[str], requested: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Split what setup installed into what can go and what has to stay.

        A package stays when something that setup did not install needs it, or when a person asked apt for it since
        (it came as a dependency and is marked as manual now). What stays is left to apt's autoremove.
        """
        present = self.installed()
        mine = {name for name in ours if name in present}
        asked = sorted(mine & set(requested))
        if asked:  # nobody asked for them any more, so apt's own reckoning can say who needs them
            self._tools.run(["apt-mark", "auto", *asked], timeout=ASK_TIMEOUT)
        ran = self._tools.run([*_GET, *_NEED, "autoremove", "--simulate"], timeout=ASK_TIMEOUT)
        if not ran.ok:
            raise Failed(f"apt-get autoremove: {ran.last_words}", fix="apt-get check")
        going = mine & set(parse_simulation(ran.output).removed)
        if going and self._would_remove(sorted(going)) - going:
            going = set()
        return tuple(sorted(going)), tuple(sorted(mine - going))

    def remove(
        self,
        going: Sequence[str],
        keep_configuration: Iterable[str],
        line: Callable[[str], None],
    ) -> None:
        """Take packages away.

        Configuration goes too, except where a person edited it or it is older than setup (``keep_configuration``).
        """
        older = set(keep_configuration)
        edited = [name for name in going if name in older or self._edited(name)]
        for verb, names in (("purge", [name for name in going if name not in edited]), ("remove", edited)):
            if names:
                ran = self._change([*_GET, verb, *names], line)
                if not ran.ok:
                    raise Failed(f"apt-get {verb}: {ran.last_words}", fix="mend that, then zeitwork setup --remove")

    def repair(self, line: Callable[[str], None]) -> None:
        """Let dpkg end what it was cut short in. Raises `Failed` in its own words.

        It has no patience for its lock, and the apt of a setup that was killed may still be at work.
        """
        ran = self._change(["dpkg", "--configure", "-a"], line)
        for _ in range(LOCK_TRIES):
            if ran.ok or "lock" not in ran.output:
                break
            time.sleep(1)
            ran = self._change(["dpkg", "--configure", "-a"], line)
        if not ran.ok:
            raise Failed(f"dpkg --configure -a: {ran.last_words}", fix="dpkg --configure -a")

    def _change(self, argv: Sequence[str], line: Callable[[str], None]) -> Ran:
        return self._tools.run(argv, timeout=INSTALL_TIMEOUT, line=line, finish=True)

    def _would_remove(self, names: Sequence[str]) -> set[str]:
        ran = self._tools.run([*_GET, "remove", "--simulate", *names], timeout=ASK_TIMEOUT)
        if not ran.ok:
            raise Failed(f"apt-get remove: {ran.last_words}", fix="apt-get check")
        return set(parse_simulation(ran.output).removed)

    def _edited(self, package: str) -> bool:
        """Whether a configuration file of a package differs from what it came with."""
        ran = self._query("-f", "${Conffiles}\n", package)
        for path, wanted in re.findall(r"^ (\S+) ([0-9a-f]{32})", ran.output, re.MULTILINE):
            try:
                if hashlib.md5(Path(path).read_bytes(), usedforsecurity=False).hexdigest() != wanted:
                    return True
            except FileNotFoundError:
                continue
        return False

    def _query(self, *arguments: str) -> Ran:
        return self._tools.run(["dpkg-query", "-W", *arguments], timeout=ASK_TIMEOUT)
