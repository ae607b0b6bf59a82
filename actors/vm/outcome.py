"""How a virtual machine ended, told from what its guest said last and how its monitor went."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from actors.model.states import Outcome

#: Most characters of the console that a reason may carry.
_EXCERPT = 400


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a placement: outcome, a sentence for people, and the app's status or signal when it is known."""

    outcome: Outcome
    reason: str
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is left to judge by.

    ``status``/``signal`` are the app's, from the guest; ``oom`` says that the guest's memory was used up. ``error``
    is the guest's own start error. ``vmm_status`` is the monitor's exit status (negative: signal), None when it was
    not our child; ``vmm_oom`` says that the host's kernel ended it for want of memory. ``ran`` is seconds between the
    app's start and the end, None when unknown. ``output`` is the console's last lines, newest last, ours left out.
    ``vmm_words`` is what the monitor said last.
    """

    started: bool = False
    status: int | None = None
    signal: int | None = None
    oom: bool = False
    error: str | None = None
    panic: str | None = None
    vmm_status: int | None = None
    vmm_oom: bool = False
    ran: float | None = None
    output: tuple[str, ...] = ()
    vmm_words: str = ""


def classify(evidence: Evidence, *, asked: bool, killed: bool, late: bool, forced: bool = False) -> Ending:
    """Return how it ended.

    ``asked``: a stop was requested while the app ran. ``killed``: the monitor was signalled because the guest did
    not end in time, ``forced`` that it was to be killed at once. ``late``: the app did not start within the start
    deadline.
    """
    app = evidence.status if evidence.status is not None else evidence.signal
    if late:
        said = _last(evidence)
        return Ending(Outcome.START_FAILED, f"the app did not start within the start deadline{said}")
    if asked:
        if killed and forced:
            return Ending(Outcome.KILLED, "was killed, as asked", app)
        if killed or evidence.signal == signal.SIGKILL:
            return Ending(Outcome.KILLED, "did not stop in time and was killed", app)
        return Ending(Outcome.STOPPED, "stopped", app)
    if evidence.error is not None:
        return Ending(Outcome.START_FAILED, f"the guest could not start the app: {evidence.error}")
    after = f" after {_seconds(evidence.ran)}" if evidence.ran is not None else ""
    said = _last(evidence)
    if evidence.status is not None:
        return Ending(Outcome.EXITED, f"the app exited with status {evidence.status}{after}{said}", app)
    if evidence.signal is not None and evidence.oom:
        name = signal_name(evidence.signal)
        return Ending(
            Outcome.OOM_KILLED, f"the app used up the guest's memory and was ended by {name}{after}{said}", app
        )
    if evidence.signal is not None:
        return Ending(Outcome.SIGNALED, f"the app was ended by {signal_name(evidence.signal)}{after}{said}", app)
    if evidence.panic is not None:
        return Ending(Outcome.PANIC, f"the guest kernel panicked: {evidence.panic}")
    if evidence.vmm_oom:
        words = "the host's memory was used up and its kernel ended the virtual machine"
        return Ending(Outcome.OOM_KILLED, f"{words}{after}")
    how = _vmm(evidence)
    if not evidence.started:
        return Ending(Outcome.START_FAILED, f"the virtual machine ended before the app started{how}{said}")
    if evidence.vmm_status in (None, 0):
        # Nobody's child any more, or an orderly end of the monitor: nothing says what happened in the guest.
        return Ending(Outcome.UNKNOWN, f"unknown: the virtual machine ended without a word from the guest{how}{said}")
    return Ending(Outcome.VMM_DIED, f"the virtual machine ended without a word from the guest{how}{said}")


def signal_name(number: int) -> str:
    """Return ``SIGTERM`` for 15, ``signal 64`` for what has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def _last(evidence: Evidence) -> str:
    lines = evidence.output if not evidence.started else evidence.output[-1:]
    text = " | ".join(line.strip() for line in lines if line.strip())
    if len(text) > _EXCERPT:
        text = "..." + text[-_EXCERPT:]
    return f": {text}" if text else ""


def _vmm(evidence: Evidence) -> str:
    words = evidence.vmm_words.strip()[-_EXCERPT:]
    said = f", saying: {words}" if words else ""
    if evidence.vmm_status is None:
        return said and f" ({said[2:]})"
    if evidence.vmm_status < 0:
        return f" (its monitor was ended by {signal_name(-evidence.vmm_status)}{said})"
    return f" (its monitor exited with status {evidence.vmm_status}{said})"
