"""TAPs for tests, and talk over them as over a cable: no address of the host is needed."""

from __future__ import annotations

import contextlib
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address

from actors.model.network import GATEWAY_MAC, GATEWAY_V4

_MAC = bytes.fromhex("0600ac1f0001")
_ARP = 0x0806


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=90)


@contextlib.contextmanager
def tap() -> Iterator[str]:
    """A TAP that is up, and gone afterwards."""
    name = f"zws{secrets.token_hex(4)}"
    ip("tuntap", "add", name, "mode", "tap")
    try:
        ip("link", "set", name, "up")
        yield name
    finally:
        ip("link", "delete", name)


def mac_of(name: str, address: IPv4Address, seconds: float = 90.0) -> str:
    """Return the MAC that the guest at the other end of a TAP says it has, asked by ARP; "" when nobody answers."""
    request = b"\xff" * 6 + _MAC + _ARP.to_bytes(2, "big") + bytes.fromhex("0001080006040001")
    request += _MAC + bytes(4) + bytes(6) + address.packed
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ARP)) as cable:
        cable.bind((name, _ARP))
        cable.settimeout(0.2)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            cable.send(request)
            with contextlib.suppress(TimeoutError):
                while True:
                    frame = cable.recv(2048)
                    if frame[20:22] == b"\x00\x02" and frame[28:32] == address.packed:
                        return frame[22:28].hex(":")
    return ""


@contextlib.contextmanager
def gateway(name: str) -> Iterator[None]:
    """Be the gateway at this end of a TAP as far as guests need one: somebody who answers when asked for its MAC."""
    over = threading.Event()
    mac = bytes.fromhex(GATEWAY_MAC.replace(":", ""))

    def answer(cable: socket.socket) -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                frame = cable.recv(2048)
                if frame[20:22] == b"\x00\x01" and frame[38:42] == GATEWAY_V4.packed:
                    reply = frame[6:12] + mac + frame[12:20] + b"\x00\x02" + mac + GATEWAY_V4.packed
                    cable.send(reply + frame[22:32])

    # It hears what is asked from here on, whenever its thread comes to answer.
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ARP)) as cable:
        cable.bind((name, _ARP))
        cable.settimeout(0.2)
        thread = threading.Thread(target=answer, args=(cable,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(90)
