"""All checks, at once and within seconds."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait

from zeitwork.config import Config
from zeitwork.doctor import cluster, firewall, hosts, machine, network, storage, virtual
from zeitwork.doctor.check import Check, Look, Patient
from zeitwork.setup.options import SetupOptions
from zeitwork.setup.tools import SystemTools, Tools

#: Seconds that all checks have together. One that hangs (a dead disk, a database that does not answer) is named.
DEADLINE = 5.0

LOOKS: tuple[Look, ...] = (
    *machine.LOOKS,
    *virtual.LOOKS,
    *storage.LOOKS,
    *network.LOOKS,
    *firewall.LOOKS,
    *cluster.LOOKS,
    *hosts.LOOKS,
)


def run_doctor(
    config: Config | None = None,
    *,
    options: SetupOptions | None = None,
    tools: Tools | None = None,
    looks: tuple[Look, ...] = LOOKS,
    deadline: float | None = None,
) -> list[Check]:
    """Return what was found, in a fixed order. Changes nothing, and needs no root."""
    config = config or Config()
    deadline = DEADLINE if deadline is None else deadline
    patient = Patient(config, options or SetupOptions.of(config), tools or SystemTools())
    pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="doctor")
    futures = [pool.submit(look, patient) for look in looks]
    wait(futures, timeout=deadline)
    pool.shutdown(wait=False, cancel_futures=True)
    return [check for look, future in zip(looks, futures, strict=True) for check in _result(look, future, deadline)]


def _result(look: Look, future: Future[list[Check]], deadline: float) -> list[Check]:
    name = getattr(look, "__name__", "check").replace("_", " ")
    if not future.done():
        return [Check(name, "fail", f"could not be checked within {deadline:.0f} s")]
    error = future.exception()
    if error is not None:
        return [Check(name, "fail", f"could not be checked: {error}")]
    return future.result()
