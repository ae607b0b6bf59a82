"""A network of hosts made of namespaces: a switch, cables to it, and what may happen to them."""

from __future__ import annotations

import subprocess
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pyroute2.netns import setns

T = TypeVar("T")


def command(*argv: str, stdin: str | None = None) -> str:
    """Run a program; return what it printed, fail with what it said."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def entering(namespace: str) -> list[str]:
    """How to run a command in a namespace. `ip netns exec` and `ip -n` remount /, which a chroot does not allow."""
    return ["nsenter", f"--net=/run/netns/{namespace}", "--"]


def ip(namespace: str, *arguments: str) -> None:
    """Run ``ip`` in a namespace."""
    command(*entering(namespace), "ip", *arguments)


def inside(namespace: str, function: Callable[[], T]) -> T:
    """Return what ``function`` returns in a network namespace: it runs in a thread that never was elsewhere."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            setns(namespace)
            outcome.extend((True, function()))
        except BaseException as error:
            outcome.extend((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(120)
    assert outcome, f"not within two minutes in {namespace}"
    good, value = outcome
    if not good:
        raise value
    answer: T = value
    return answer


@dataclass
class Network:
    """Namespaces on one switch. Each has ``eth0`` with an address of both families; the switch itself has none."""

    prefix: str = field(default_factory=lambda: f"zwt-{uuid.uuid4().hex[:6]}")
    names: list[str] = field(default_factory=list)
    #: What does not arrive: frames from the one to the other.
    cuts: set[tuple[str, str]] = field(default_factory=set)

    @property
    def switch(self) -> str:
        """The namespace of the switch."""
        return f"{self.prefix}-switch"

    def namespace(self, name: str) -> str:
        """The namespace of one who is on the network."""
        return f"{self.prefix}-{name}"

    def v4(self, name: str) -> str:
        """Its IPv4 address."""
        return f"192.0.2.{self.names.index(name) + 1}"

    def v6(self, name: str) -> str:
        """Its IPv6 address."""
        return f"fd00:7e57::{self.names.index(name) + 1:x}"

    def within(self, name: str) -> list[str]:
        """How to run a command there."""
        return entering(self.namespace(name))

    def run(self, name: str, *argv: str) -> str:
        """Run a command there and return what it printed."""
        return command(*self.within(name), *argv)

    def add(self, name: str) -> None:
        """Connect one more."""
        self.names.append(name)
        namespace, port = self.namespace(name), f"port-{name}"
        command("ip", "netns", "add", namespace)
        ip(namespace, "link", "set", "lo", "up")
        ip(self.switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        ip(self.switch, "link", "set", port, "master", "br0", "up")
        ip(namespace, "link", "set", "eth0", "up")
        ip(namespace, "addr", "add", f"{self.v4(name)}/24", "dev", "eth0")
        ip(namespace, "addr", "add", f"{self.v6(name)}/64", "dev", "eth0", "nodad")

    def route(self, prefix: str, through: str) -> None:
        """Let everybody reach a host's virtual machines by it, as a site's routers would."""
        for name in self.names:
            if name != through:
                self.run(name, "ip", "-6", "route", "replace", prefix, "via", self.v6(through))

    def cut(self, *pairs: tuple[str, str]) -> None:
        """Lose every frame from the one to the other, of each of these pairs, from now on."""
        self.cuts.update(pairs)
        self._apply()

    def cut_off(self, name: str, others: Iterable[str] | None = None) -> None:
        """Lose everything between one and these others (all), both ways."""
        for other in self.names if others is None else others:
            if other != name:
                self.cuts.update({(name, other), (other, name)})
        self._apply()

    def heal(self) -> None:
        """Lose nothing any more."""
        self.cuts.clear()
        self._apply()

    def _apply(self) -> None:
        rules = [f'iifname "port-{one}" oifname "port-{other}" drop' for one, other in sorted(self.cuts)]
        chain = "\n".join(["type filter hook forward priority 0; policy accept;", *rules])
        # Made anew at once: no frame passes in between.
        ruleset = (
            "table bridge cuts {}\ndelete table bridge cuts\n"
            f"table bridge cuts {{\nchain forward {{\n{chain}\n}}\n}}\n"
        )
        command(*entering(self.switch), "nft", "-f", "-", stdin=ruleset)


@contextmanager
def network(*names: str) -> Iterator[Network]:
    """Make a network of these; at the end take away the namespaces."""
    made = Network()
    try:
        command("ip", "netns", "add", made.switch)
        ip(made.switch, "link", "add", "br0", "type", "bridge")
        ip(made.switch, "link", "set", "br0", "up")
        for name in names:
            made.add(name)
        yield made
    finally:
        for namespace in (made.switch, *map(made.namespace, made.names)):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, timeout=30)
