"""Firecracker: configured and started through the HTTP API on its unix socket."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h11
import trio

from actors.model.crash_points import CrashPoint
from actors.model.errors import Failed
from actors.vm.agent.wire import PORT, TOKEN_BYTES, VERSION, Frame, Kind
from actors.vm.guest import FIGURES
from actors.vm.jail import Jail, known_as, relink
from actors.vm.machine import Acceleration, Command, Drive, MachineSpec
from actors.vm.microvm import BlockDevice, Call, Metadata, MicroVm, NetworkCard, Vsock, create_snapshot, load_snapshot
from actors.vm.ready import check
from actors.vm.saved import MEMORY, STATE, offered
from actors.vm.sockets import connect
from actors.vm.version import program_version
from runtime import crash

SOCKET, AGENT = "api.sock", "agent.sock"
#: The address of every guest on its own vsock device, whose other end is a unix socket: none is shared.
_CID = 3
#: Seconds until a fresh process listens, for one that should listen already, and for InstanceStart, which
#: loads kernel and initramfs.
_LISTEN, _REACH, _START = 20.0, 1.0, 20.0
#: Seconds for a restored guest to say something on a connection, and between attempts to have it say so.
_OPEN, _AGAIN = 2.0, 0.01
#: Seconds to write a snapshot, and more of them for each MiB of memory: disks of 20 MiB/s are slow enough.
_SAVE, _SAVE_MIB = 20.0, 0.05
#: Seconds for a snapshot that was given up to come to its end.
_SETTLE = 30.0
#: A fault message is a sentence; anything longer is not from Firecracker.
_MAX_RESPONSE = 256 * 1024
#: "OK" and a port.
_MAX_GREETING = 32
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
        metrics=spec.log.with_name(FIGURES),
        metadata=None if nic is None or not spec.identity else Metadata({"zeitwork": dict(spec.identity)}),
        vsock=Vsock(_CID, spec.run / AGENT) if spec.agent else None,
    )


def configuration(spec: MachineSpec) -> list[Call]:
    """Return the requests that make ``spec`` out of a fresh Firecracker and start its guest, in order. Pure.

    What is restored is configured by its snapshot. Only what it does not hold is told anew: where figures go, which TAP
    the card is on, and who the guest is now.
    """
    whole = microvm(spec)
    if spec.restore is None:
        return [*whole.calls(), START]
    calls = [] if whole.metrics is None else [whole.metrics_call()]
    calls.append(load_snapshot(spec.restore / STATE, spec.restore / MEMORY, whole.cards))
    if whole.metadata is not None:
        calls.append(whole.metadata.content_call())
    return [*calls, RESUME]


START = Call("PUT", "/actions", {"action_type": "InstanceStart"}, _START)
CTRL_ALT_DEL = Call("PUT", "/actions", {"action_type": "SendCtrlAltDel"})
FLUSH = Call("PUT", "/actions", {"action_type": "FlushMetrics"})
PAUSE = Call("PATCH", "/vm", {"state": "Paused"})
#: A snapshot that is being made is waited for: requests are answered one after the other.
RESUME = Call("PATCH", "/vm", {"state": "Resumed"}, 30.0)
INFO, SIZE = Call("GET", "/", {}), Call("GET", "/machine-config", {})


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

    def _seen(self, spec: MachineSpec) -> MachineSpec:
        """Return the machine as its monitor sees it from the directory where it works."""
        jail = self._jail(spec)
        return _unjailed(spec) if jail is None else jail.inside()

    def prepare(self, spec: MachineSpec) -> None:
        """Make its jail, or what stands for one in its run directory. Blocking. Raises `Failed`."""
        check(spec, sockets=(SOCKET, AGENT), saved=(STATE, MEMORY))
        jail = self._jail(spec)
        if jail is not None:
            jail.build((SOCKET, AGENT), (spec.log.with_name(FIGURES),), (STATE, MEMORY))
        else:
            _link(spec)

    def settle(self, spec: MachineSpec) -> None:
        """Unmount what it has opened."""
        jail = self._jail(spec)
        if jail is not None:
            jail.settle()

    async def version(self) -> str:
        """Return for example ``1.12.1``. Raises `Unavailable`."""
        return await program_version(self.binary, r"Firecracker v(\S+)")

    def command(self, spec: MachineSpec) -> Command:
        """Return its command line. Its standard output is the guest's console; its log goes elsewhere."""
        jail = self._jail(spec)
        if jail is not None and self.jailer is not None:
            return jail.command(self.jailer, _arguments(jail.inside()))
        arguments = _arguments(_unjailed(spec))
        return Command((str(self.binary), "--id", str(spec.id), *arguments), stdout=spec.console, cwd=spec.run)

    async def boot(self, spec: MachineSpec) -> None:
        """Send the configuration, or load a snapshot, and start. Raises `Failed` with Firecracker's fault message."""
        async with await Api.connect(spec.run / SOCKET, _LISTEN) as api:
            *configure, start = configuration(self._seen(spec))
            for call in configure:
                await api.call(call)
            crash.point(CrashPoint.CONFIGURED)
            await api.call(start)
        if spec.restore is not None and spec.agent:
            await self._open_channel(spec.run)

    async def _open_channel(self, run: Path) -> None:
        """Make connections to the agent of a restored guest last.

        That those of its earlier life are over reaches the guest together with the first one of the new, and that is
        lost as well, without a word: so it is one that nobody needs. It is over when the agent answers, which it does
        after that, or when the guest's kernel refuses what it knows nothing of any more.
        """
        greeting = Frame(Kind.HELLO, payload=bytes(TOKEN_BYTES) + VERSION.to_bytes(2, "little")).encode()
        with trio.move_on_after(_OPEN), suppress(Failed, trio.BrokenResourceError):
            async with await self.agent(run, _OPEN) as stream:
                await stream.send_all(greeting)
                heard = False
                while not heard:
                    with trio.move_on_after(_AGAIN):
                        await stream.receive_some(1)
                        heard = True
                    # Zeros between frames mean nothing.
                    await stream.send_all(b"\0")

    async def request_shutdown(self, run: Path, attempt: int) -> None:
        """Press Ctrl-Alt-Del on the guest's keyboard, on every attempt: there is no other way.

        A guest that obeys ends with its monitor's figures written. From the second attempt on they are written here:
        this one may have to be killed.
        """
        async with await Api.connect(run / SOCKET, _REACH) as api:
            if attempt > 0:
                with suppress(Failed):
                    await api.call(FLUSH)
            await api.call(CTRL_ALT_DEL)

    async def pause(self, run: Path) -> None:
        """Stop the guest's CPUs; nothing happens when they are stopped."""
        async with await Api.connect(run / SOCKET, _REACH) as api:
            await api.call(PAUSE)

    async def resume(self, run: Path) -> None:
        """Let the guest's CPUs go on; nothing happens when they run."""
        async with await Api.connect(run / SOCKET, _REACH) as api:
            await api.call(RESUME)

    async def paused(self, run: Path) -> bool:
        """Return whether the guest's CPUs are stopped. Raises `Failed` when it has not been started."""
        async with await Api.connect(run / SOCKET, _REACH) as api:
            state = (await api.call(INFO)).get("state")
        if state not in ("Running", "Paused"):
            raise Failed(f"firecracker says that its guest is {state!r}")
        return bool(state == "Paused")

    async def save(self, run: Path, target: Path) -> None:
        """Write the state of a paused guest into `STATE` and `MEMORY` in ``target``. Raises `Failed`.

        Firecracker resets connections to the agent by it: they are lost to a guest that goes on, too. Cancelled, a
        snapshot that is being made is ended by Firecracker itself, and what is asked next waits for that.
        """
        jail = await trio.to_thread.run_sync(_jail_root, run)
        async with (
            await Api.connect(run / SOCKET, _REACH) as api,
            offered(target, (STATE, MEMORY), jail=jail, sparse=(MEMORY,)) as offer,
        ):
            size = (await api.call(SIZE)).get("mem_size_mib")
            deadline = _SAVE + _SAVE_MIB * (size if isinstance(size, int) else 0)
            try:
                await api.call(create_snapshot(offer.known(STATE), offer.known(MEMORY), deadline))
            except BaseException:
                await self._settled(run)
                raise

    async def _settled(self, run: Path) -> None:
        """Wait for the end of a snapshot that was given up: it would make files of its own once ours are gone."""
        with trio.move_on_after(_SETTLE, shield=True), suppress(Failed):
            async with await Api.connect(run / SOCKET, _REACH) as api:
                await api.call(replace(INFO, deadline=_SETTLE))

    @property
    def lasting_channel(self) -> bool:
        """Each connection is a stream of its own."""
        return False

    async def agent(self, run: Path, deadline: float) -> trio.SocketStream:
        """Connect to the agent in the guest. Raises `Failed`, also when nobody listens in there (yet)."""
        end = trio.current_time() + deadline
        stream = await connect(run / AGENT, deadline, "firecracker")
        try:
            with trio.fail_at(end):
                await stream.send_all(b"CONNECT %d\n" % PORT)
                greeting = await _line(stream)
            if not greeting.startswith(b"OK "):
                raise Failed("nobody listens in the guest: its agent has not started, or has ended")
        except BaseException as error:
            await trio.aclose_forcefully(stream)
            if isinstance(error, trio.TooSlowError):
                raise Failed(f"the guest did not take a connection to its agent within {deadline:g} s") from None
            if isinstance(error, trio.BrokenResourceError):
                raise Failed(f"firecracker closed the connection to the guest's agent: {error}") from error
            raise
        return stream


def _unjailed(spec: MachineSpec) -> MachineSpec:
    """Return the machine as a monitor without a jail sees it: it works in the run directory. Pure.

    What a snapshot remembers (drives and sockets) has the names that it has in a jail.
    """
    return replace(
        spec,
        kernel=spec.kernel.absolute(),
        initrd=None if spec.initrd is None else spec.initrd.absolute(),
        drives=tuple(Drive(drive.name, known_as(drive), drive.read_only) for drive in spec.drives),
        log=spec.log.absolute(),
        run=Path(),
        restore=None if spec.restore is None else spec.restore.absolute(),
    )


def _link(spec: MachineSpec) -> None:
    try:
        for drive in spec.drives:
            relink(spec.run / known_as(drive), drive.path.absolute())
        # Firecracker refuses to listen where somebody did before.
        for name in (SOCKET, AGENT):
            (spec.run / name).unlink(missing_ok=True)
    except OSError as error:
        raise Failed(f"the machine's files can't be named: {error.strerror}: {error.filename}") from error


def _jail_root(run: Path) -> Path | None:
    """Return the root of the jail that a monitor runs in: its socket is there, and only a link in ``run``."""
    socket = run / SOCKET
    return socket.readlink().parent if socket.is_symlink() else None


async def _line(stream: trio.SocketStream) -> bytes:
    """Return a line, and take nothing that follows it; what came of it when the other side closes or talks on."""
    line = bytearray()
    while len(line) < _MAX_GREETING and not line.endswith(b"\n"):
        data = await stream.receive_some(1)
        if not data:
            break
        line += data
    return bytes(line)


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
