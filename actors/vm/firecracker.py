"""Firecracker: configured and started through the HTTP API on its unix socket."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h11
import trio

from actors.model.crash_points import CrashPoint
from actors.model.errors import Failed
from actors.vm.jail import Jail, settle
from actors.vm.machine import Acceleration, Command, MachineSpec
from actors.vm.microvm import BlockDevice, Call, Metadata, MicroVm, NetworkCard
from actors.vm.sockets import connect
from actors.vm.version import program_version
from runtime import crash

SOCKET, METRICS = "api.sock", "metrics.json"
#: Seconds until a fresh process listens, for one that should listen already, and for InstanceStart, which
#: loads kernel and initramfs.
_LISTEN, _REACH, _START = 5.0, 1.0, 20.0
#: A fault message is a sentence; anything longer is not from Firecracker.
_MAX_RESPONSE = 256 * 1024
#: No PCI, and none of the keyboard controller's slow probes: it is there for Ctrl-Alt-Del only.
_BOOT_ARGS = "pci=off i8042.noaux i8042.nomux i8042.nopnp i8042.dumbkbd"


def microvm(spec: MachineSpec) -> MicroVm:
    """Return ``spec`` as a Firecracker machine. Pure. Raises `InvalidInput` for what Firecracker has not."""
    nic = spec.nic
    return MicroVm(
        vcpu=spec.vcpu,
        memory=spec.memory,
        kernel=spec.kernel,
        boot_args=f"{spec.cmdline} {_BOOT_ARGS}".strip(),
        initrd=spec.initrd,
        drives=tuple(BlockDevice(drive.name, drive.path, drive.read_only) for drive in spec.drives),
        cards=() if nic is None else (NetworkCard("eth0", nic.tap, nic.mac),),
        metrics=spec.log.with_name(METRICS),
        metadata=None if nic is None or not spec.identity else Metadata({"zeitwork": dict(spec.identity)}),
    )


def configuration(spec: MachineSpec) -> list[Call]:
    """Return the requests that make ``spec`` out of a fresh Firecracker, in order. Pure."""
    return microvm(spec).calls()


START = Call("PUT", "/actions", {"action_type": "InstanceStart"}, _START)
CTRL_ALT_DEL = Call("PUT", "/actions", {"action_type": "SendCtrlAltDel"})


@dataclass(frozen=True, slots=True)
class Firecracker:
    """The hypervisor `actors.vm.machine.Hypervisor` over a Firecracker binary."""

    binary: Path
    name: str = "firecracker"
    acceleration: Acceleration = Acceleration.KVM
    jailer: Path | None = None

    @property
    def programs(self) -> tuple[Path, ...]:
        """Firecracker, and the jailer where there is one."""
        return (self.binary,) if self.jailer is None else (self.binary, self.jailer)

    def _jail(self, spec: MachineSpec) -> Jail | None:
        if self.jailer is None or spec.jail is None:
            return None
        return Jail(spec, spec.jail, self.binary.resolve())

    def prepare(self, spec: MachineSpec) -> None:
        """Make its jail. Blocking. Raises `Failed`."""
        jail = self._jail(spec)
        if jail is not None:
            jail.build(SOCKET, (spec.log.with_name(METRICS),))

    def settle(self, spec: MachineSpec) -> None:
        """Unmount what it has opened."""
        if self.jailer is not None and spec.jail is not None:
            settle(spec.jail.base)

    async def version(self) -> str:
        """Return for example ``1.12.1``. Raises `Unavailable`."""
        return await program_version(self.binary, r"Firecracker v(\S+)")

    def command(self, spec: MachineSpec) -> Command:
        """Return its command line. Its standard output is the guest's console; its log goes elsewhere."""
        jail = self._jail(spec)
        if jail is not None and self.jailer is not None:
            return jail.command(self.jailer, _arguments(jail.inside()))
        return Command((str(self.binary), "--id", str(spec.id), *_arguments(spec)), stdout=spec.console)

    async def boot(self, spec: MachineSpec) -> None:
        """Send the configuration, then InstanceStart. Raises `Failed` with Firecracker's fault message."""
        async with await Api.connect(spec.run / SOCKET, _LISTEN) as api:
            jail = self._jail(spec)
            for call in configuration(spec if jail is None else jail.inside()):
                await api.call(call)
            crash.point(CrashPoint.CONFIGURED)
            await api.call(START)

    async def request_shutdown(self, run: Path, attempt: int) -> None:
        """Press Ctrl-Alt-Del on the guest's keyboard, on every attempt: there is no other way."""
        del attempt
        async with await Api.connect(run / SOCKET, _REACH) as api:
            await api.call(CTRL_ALT_DEL)

    async def pause(self, run: Path) -> None:
        """Stop the guest's CPUs."""
        raise Failed(f"{self.name} can't be paused yet")

    async def resume(self, run: Path) -> None:
        """Let the guest's CPUs go on."""
        raise Failed(f"{self.name} can't be resumed yet")

    async def paused(self, run: Path) -> bool:
        """Return whether the guest's CPUs are stopped."""
        raise Failed(f"{self.name} can't say yet")

    async def save(self, run: Path, target: Path) -> None:
        """Write the state of a paused guest."""
        raise Failed(f"{self.name} can't be saved yet")

    @property
    def lasting_channel(self) -> bool:
        """Whether the agent's channel outlives connections."""
        return False

    async def agent(self, run: Path, deadline: float) -> trio.SocketStream:
        """Connect to the agent in the guest."""
        raise Failed(f"{self.name} has no agent yet")


def _arguments(spec: MachineSpec) -> tuple[str, ...]:
    return "--api-sock", str(spec.run / SOCKET), "--log-path", str(spec.log), "--level", "Warning"


class Api:
    """One connection to a Firecracker's API."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_RESPONSE)

    @classmethod
    async def connect(cls, socket: Path, deadline: float) -> Api:
        """Connect, waiting up to ``deadline`` seconds for a fresh process to listen. Raises `Failed`."""
        return cls(await connect(socket, deadline, "firecracker"))

    async def __aenter__(self) -> Api:
        return self

    async def __aexit__(self, *_: object) -> None:
        await trio.aclose_forcefully(self._stream)

    async def call(self, call: Call) -> dict[str, Any]:
        """Send one request; return the answer's JSON object. Raises `Failed` with the fault message."""
        what = f"{call.method} {call.path}"
        try:
            with trio.fail_after(call.deadline):
                status, content = await self._exchange(call)
        except trio.TooSlowError:
            raise Failed(f"firecracker did not answer {what} within {call.deadline:g} s") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError) as error:
            raise Failed(f"firecracker closed the connection during {what}: {error}") from error
        answer = _object(content)
        if status >= 300:
            fault = answer.get("fault_message") or content.decode("utf-8", "replace")[:500]
            raise Failed(f"firecracker refused {what}: {fault}")
        return answer

    async def _exchange(self, call: Call) -> tuple[int, bytes]:
        body = json.dumps(call.body).encode() if call.method != "GET" else b""
        headers = [("Host", "localhost"), ("Accept", "application/json"), ("Content-Length", str(len(body)))]
        if body:
            headers.append(("Content-Type", "application/json"))
        request = h11.Request(method=call.method, target=call.path, headers=headers)
        data = self._http.send(request) or b""
        data += self._http.send(h11.Data(data=body)) or b"" if body else b""
        data += self._http.send(h11.EndOfMessage()) or b""
        await self._stream.send_all(data)
        status, content = 0, bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._stream.receive_some(65536))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                content += event.data
                if len(content) > _MAX_RESPONSE:
                    raise Failed("firecracker sent an answer that is too long")
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                raise trio.BrokenResourceError("closed")
        self._http.start_next_cycle()
        return status, bytes(content)


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content) if content.strip() else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
