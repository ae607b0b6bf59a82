"""A guest without a VM: a real IP stack in a namespace of its own, whose only cable is a TAP of the host.

The process opens the host's TAP like a VMM would, makes a card ``eth0`` in its new namespace, and carries frames.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import subprocess
import sys
from types import TracebackType

from actors.model.network import GATEWAY_V4, GATEWAY_V6, Lease, guest_mac

_CLONE_NEWNET = 0x40000000


def _attach(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1002))
    return device


def command(*argv: str) -> str:
    """Run a program here and return what it printed."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return done.stdout


def carry(tap: str, card: str) -> None:
    """Be the cable between ``tap`` here and ``card`` in a new namespace; says ``ready`` and never returns."""
    host = _attach(tap)
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    guest = _attach(card)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    poll = select.poll()
    for device in (host, guest):
        poll.register(device, select.POLLIN)
    other = {host: guest, guest: host}
    while True:
        for device, _ in poll.poll():
            try:
                os.write(other[device], os.read(device, 65536))
            except OSError:
                continue  # the other end is down: a frame is lost, as on any cable


class Space:
    """A namespace that lives as long as one process in it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        self.run("ip", "link", "set", "lo", "up")

    def __enter__(self) -> Space:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(90)

    def run(self, *command: str, timeout: float = 90.0, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the namespace."""
        entered = ["nsenter", "--net", "--target", str(self.process.pid), "--", *command]
        done = subprocess.run(entered, capture_output=True, text=True, timeout=timeout)
        assert not check or done.returncode == 0, (command, done.stdout, done.stderr)
        return done

    def python(self, program: str, *, check: bool = True) -> str:
        """Run a program in the namespace and return what it printed."""
        return self.run(sys.executable, "-I", "-S", "-c", program, check=check).stdout.strip()

    def start(self, program: str) -> subprocess.Popen[str]:
        """Start a program that says ``ready`` first; killed with the whole test."""
        entered = ["nsenter", "--net", "--target", str(self.process.pid), "--", sys.executable, "-I", "-S", "-u", "-c"]
        process = subprocess.Popen([*entered, program], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process


class Guest(Space):
    """The guest at the other end of ``tap``, set up the way our init does."""

    def __init__(self, tap: str, lease: Lease) -> None:
        command = [sys.executable, "-m", __spec__.name, tap, "eth0"]
        super().__init__(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        script = f"""
            echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
            ip link set eth0 address {guest_mac(lease)}
            ip link set eth0 up
            ip address add {lease.v4}/32 dev eth0
            ip route add {GATEWAY_V4}/32 dev eth0
            ip route add default via {GATEWAY_V4}
        """
        if lease.v6 is not None:
            script += f"""
            ip address add {lease.v6}/128 dev eth0 nodad
            ip route add default via {GATEWAY_V6} dev eth0
            """
        self.run("sh", "-ec", script)


class Outside(Space):
    """The world beyond the host, at the other end of a cable ``uplink``: 192.0.2.1 and 2001:db8::1 there."""

    def __init__(self) -> None:
        program = "import sys,time; print('ready', flush=True); time.sleep(600)"
        command = ["unshare", "--net", "--", sys.executable, "-I", "-S", "-c", program]
        super().__init__(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        pid = self.process.pid
        script = f"""
            ip link add uplink type veth peer name eth0 netns {pid}
            ip link set uplink up
            ip address add 192.0.2.2/24 dev uplink
            ip address add 2001:db8::2/64 dev uplink nodad
            ip route add default via 192.0.2.1
            ip route add default via 2001:db8::1 dev uplink
        """
        subprocess.run(["sh", "-ec", script], check=True, timeout=90)
        self.run(
            "sh", "-ec",
            "ip link set eth0 up; ip address add 192.0.2.1/24 dev eth0; ip address add 2001:db8::1/64 dev eth0 nodad",
        )  # fmt: skip


def tcp_server(port: int, *, host: str = "::", answers: int = 1) -> str:
    """Return a program that answers each TCP connection with the address it came from, on so many lines.

    The first line comes at once, each further one when the client has sent something.
    """
    return f"""
import socket
family = socket.AF_INET6 if ":" in {host!r} else socket.AF_INET
server = socket.create_server(({host!r}, {port}), family=family, dualstack_ipv6=family == socket.AF_INET6)
print("ready")
while True:
    connection, address = server.accept()
    for answer in range({answers}):
        if not answer or connection.recv(100):
            connection.sendall(address[0].removeprefix("::ffff:").encode() + b"\\n")
    connection.close()
"""


def tcp_client(address: str, port: int, *, timeout: float = 60.0, answers: int = 1) -> str:
    """Return a program that prints what the server says, or ``silence``, or ``refused``.

    Before each answer but the first it waits for a line of its own input and sends that.
    """
    return f"""
import socket
try:
    with socket.create_connection(({address!r}, {port}), {timeout}) as connection:
        for answer in range({answers}):
            if answer:
                connection.sendall(input().encode())
            print(connection.recv(100).decode().strip(), flush=True)
except TimeoutError:
    print("silence")
except OSError:
    print("refused")
"""


def udp_sink(port: int) -> str:
    """Return a program that prints each datagram's text on a line."""
    return f"""
import socket
sink = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
sink.bind(("::", {port}))
print("ready")
while True:
    print(sink.recv(1000).decode())
"""


def udp_spray(source: str, target: str, port: int, text: str) -> str:
    """Return a program that sends one datagram from ``source``, whoever that is."""
    return f"""
import contextlib, socket
spray = socket.socket(socket.AF_INET6 if ":" in {target!r} else socket.AF_INET, socket.SOCK_DGRAM)
spray.bind(({source!r}, 0))
with contextlib.suppress(OSError):
    spray.sendto({text!r}.encode(), ({target!r}, {port}))
"""


if __name__ == "__main__":
    carry(*sys.argv[1:])
