"""A pretend machine: files below a temporary root, and programs that act on those files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from actors.model.paths import HostPaths
from zeitwork.setup.layout import Layout
from zeitwork.setup.options import SetupOptions
from zeitwork.setup.tools import Ran

#: What each package brings along, and the program in it.
DEPENDS = {"qemu-system-x86": ("seabios", "libaio1"), "squashfs-tools-ng": ("libsquashfs1",)}
PROGRAMS = {
    "qemu-system-x86": "qemu-system-x86_64",
    "e2fsprogs": "mke2fs",
    "squashfs-tools-ng": "tar2sqfs",
    "nftables": "nft",
    "busybox-static": "busybox",
}


class World:
    """apt, the accounts' programs and systemctl, all on a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.layout = Layout(root)
        self.installed: dict[str, bool] = {"base-files": True}  # name -> asked for by somebody
        self.needed_by: dict[str, str] = {}  # a package -> one that somebody installed and that needs it
        self.edited: set[str] = set()
        self.calls: list[tuple[str, ...]] = []
        self.failing: dict[str, str] = {}  # first words of a command line -> what it says when it fails
        self.commands: set[str] = {"apt-get", "modprobe", "systemctl"}
        self.after: Callable[[tuple[str, ...]], None] = lambda _argv: None
        for folder in (
            "etc/sysctl.d",
            "etc/modules-load.d",
            "etc/systemd/system",
            "var/lib/apt/lists",
            "dev/net",
            "bin",
        ):
            (root / folder).mkdir(parents=True)
        (root / "proc/net").mkdir(parents=True)
        (root / "proc/net/ipv6_route").write_text("")
        for key in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            file = self.layout.sysctl(key)
            file.parent.mkdir(parents=True)
            file.write_text("0\n")
        self.layout.os_release.write_text('ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')
        self.layout.passwd.write_text("root:x:0:0:root:/root:/bin/bash\n")
        self.layout.group.write_text("root:x:0:\n")
        self.layout.tun.touch()

    def options(self, *, systemd: bool = False) -> SetupOptions:
        paths = HostPaths(data=self.root / "var/lib/zeitwork", run=self.root / "run/zeitwork")
        return SetupOptions(paths=paths, layout=self.layout, systemd=systemd)

    def which(self, command: str) -> Path | None:
        known = self.commands | {PROGRAMS[name] for name in self.installed if name in PROGRAMS}
        return self.root / "bin" / command if command in known else None

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        cwd: Path | None = None,
        line: Callable[[str], None] | None = None,
        finish: bool = False,
    ) -> Ran:
        words = tuple(argv)
        self.calls.append(words)
        plain = " ".join(word for word in words if word not in ("-y", "-q", "-o") and "::" not in word)
        for start, words_said in self.failing.items():
            if plain.startswith(start):
                return Ran(1, words_said)
        ran = self._run(words, plain)
        self.after(words)
        if line is not None:
            for text in ran.output.splitlines():
                line(text)
        return ran

    def _run(self, words: tuple[str, ...], plain: str) -> Ran:
        names = [word for word in words if word in DEPENDS or word in PROGRAMS or word in self.installed]
        match plain.split()[:2]:
            case ["apt-get", "update"]:
                (self.layout.package_lists / "mirror_Packages").touch()
            case ["apt-get", "install"]:
                return self._install(names, simulate="--simulate" in words)
            case ["apt-get", "remove" | "purge"]:
                return self._remove(names, simulate="--simulate" in words)
            case ["apt-mark", "showmanual"]:
                return Ran(0, "\n".join(name for name, asked in self.installed.items() if asked))
            case ["apt-get", "autoremove"]:
                return Ran(0, "".join(f"Remv {name} [1.0]\n" for name in self._unneeded()))
            case ["apt-mark", "auto"]:
                self.installed.update(dict.fromkeys(names, False))
            case ["dpkg-query", "-W"] if "${Conffiles}\n" in words:
                return Ran(0, "")
            case ["dpkg-query", "-W"]:
                return Ran(0, "".join(f"{name} installed\n" for name in self.installed))
            case ["groupadd", "--system"]:
                self._append(self.layout.group, f"{words[-1]}:x:990:")
            case ["useradd", "--system"]:
                self._append(self.layout.passwd, f"{words[-1]}:x:991:991::/nonexistent:/usr/sbin/nologin")
            case ["userdel", name]:
                self._drop(self.layout.passwd, name)
            case ["groupdel", name]:
                self._drop(self.layout.group, name)
            case ["systemctl", "enable"]:
                self.layout.unit_link.parent.mkdir(exist_ok=True)
                self.layout.unit_link.symlink_to(self.layout.unit)
            case ["systemctl", "disable"]:
                self.layout.unit_link.unlink(missing_ok=True)
            case ["systemctl", "daemon-reload"] | ["nft", "list"]:
                return Ran(0 if words[0] == "systemctl" else 1, "")
            case ["dpkg", "--configure"]:
                return Ran(0, "")
            case ["modprobe", "tun"]:
                self.layout.tun.touch()
            case _:
                raise AssertionError(f"unexpected: {plain}")
        return Ran(0, "")

    def _unneeded(self) -> list[str]:
        """Return the packages that nobody asked for and that none of the others needs."""
        kept = {name for name, asked in self.installed.items() if asked}
        grown = True
        while grown:
            needed = {low for high in kept for low in DEPENDS.get(high, ())}
            needed |= {low for low, high in self.needed_by.items() if high in kept}
            grown = bool(needed & set(self.installed) - kept)
            kept |= needed
        return [name for name in self.installed if name not in kept]

    def _install(self, names: list[str], *, simulate: bool) -> Ran:
        wanted = [*names, *(more for name in names for more in DEPENDS.get(name, ()))]
        new = [name for name in wanted if name not in self.installed]
        if not simulate:
            self.installed.update({name: name in names for name in new})
            if "libaio1" in new:  # as libibverbs1 does
                self._append(self.layout.group, "rdma:x:101:")
        return Ran(0, "".join(f"Inst {name} (1.0 Debian:12 [amd64])\n" for name in new))

    def _remove(self, names: list[str], *, simulate: bool) -> Ran:
        going = set(names)
        grown = True
        while grown:
            grown = False
            for name in list(self.installed):
                needs = set(DEPENDS.get(name, ())) | {low for low, high in self.needed_by.items() if high == name}
                if name not in going and needs & going:
                    going.add(name)
                    grown = True
        if not simulate:
            for name in going:
                self.installed.pop(name, None)
        return Ran(0, "".join(f"Remv {name} [1.0]\n" for name in sorted(going)))

    @staticmethod
    def _append(file: Path, line: str) -> None:
        file.write_text(file.read_text() + line + "\n")

    @staticmethod
    def _drop(file: Path, name: str) -> None:
        lines = [line for line in file.read_text().splitlines() if not line.startswith(f"{name}:")]
        file.write_text("\n".join(lines) + "\n")


class QuietUi:
    """Answers as told and keeps what it was shown."""

    def __init__(self, *, answer: bool = True) -> None:
        self.answer = answer
        self.shown: list[str] = []
        self.asked: list[str] = []
        self.warned: list[str] = []

    def show(self, text: str) -> None:
        self.shown.append(text)

    def confirm(self, question: str) -> bool:
        self.asked.append(question)
        return self.answer

    def begin(self, title: str, number: int, count: int) -> None:
        pass

    def progress(self, line: str) -> None:
        pass

    def end(self, warning: str | None) -> None:
        if warning is not None:
            self.warned.append(warning)
