"""What an end is called, and the sentence that people read."""

from __future__ import annotations

import pytest

from actors.model.states import Outcome
from actors.vm.outcome import Evidence, classify, signal_name

RAN = {"started": True, "ran": 0.41}


@pytest.mark.parametrize(
    ("evidence", "how", "outcome", "reason", "status"),
    [
        (Evidence(**RAN, status=1, output=("a", "boom")), {}, Outcome.EXITED,
         "the app exited with status 1 after 0.4 s: boom", 1),
        (Evidence(started=True, status=0), {}, Outcome.EXITED, "the app exited with status 0", 0),
        (Evidence(**RAN, signal=11), {}, Outcome.SIGNALED, "the app was ended by SIGSEGV after 0.4 s", 11),
        (Evidence(**RAN, signal=9, oom=True), {}, Outcome.OOM_KILLED,
         "the app used up the guest's memory and was ended by SIGKILL after 0.4 s", 9),
        (Evidence(**RAN, status=0), {"asked": True}, Outcome.STOPPED, "stopped", 0),
        (Evidence(**RAN, signal=15), {"asked": True}, Outcome.STOPPED, "stopped", 15),
        (Evidence(**RAN, signal=9), {"asked": True}, Outcome.KILLED, "did not stop in time and was killed", 9),
        (Evidence(**RAN), {"asked": True, "killed": True}, Outcome.KILLED, "did not stop in time and was killed", None),
        (Evidence(**RAN), {"asked": True, "killed": True, "forced": True}, Outcome.KILLED,
         "was killed, as asked", None),
        (Evidence(error="no such user (at user)"), {}, Outcome.START_FAILED,
         "the guest could not start the app: no such user (at user)", None),
        (Evidence(**RAN, panic="Oops"), {}, Outcome.PANIC, "the guest kernel panicked: Oops", None),
        (Evidence(**RAN, vmm_status=-9), {}, Outcome.VMM_DIED,
         "the virtual machine ended without a word from the guest (its monitor was ended by SIGKILL)", None),
        (Evidence(**RAN, vmm_status=-11), {}, Outcome.VMM_DIED,
         "the virtual machine ended without a word from the guest (its monitor was ended by SIGSEGV)", None),
        (Evidence(**RAN, vmm_status=-9, vmm_oom=True), {}, Outcome.OOM_KILLED,
         "the host's memory was used up and its kernel ended the virtual machine after 0.4 s", None),
        (Evidence(**RAN, status=1, vmm_oom=True), {}, Outcome.EXITED, "the app exited with status 1 after 0.4 s", 1),
        (Evidence(**RAN), {}, Outcome.UNKNOWN,
         "unknown: the virtual machine ended without a word from the guest", None),
        (Evidence(**RAN, vmm_status=0, output=("hi",)), {}, Outcome.UNKNOWN,
         "unknown: the virtual machine ended without a word from the guest (its monitor exited with status 0): hi",
         None),
        (Evidence(vmm_status=1, vmm_words="no KVM"), {}, Outcome.START_FAILED,
         "the virtual machine ended before the app started (its monitor exited with status 1, saying: no KVM)", None),
        (Evidence(output=("one", "two")), {"late": True}, Outcome.START_FAILED,
         "the app did not start within the start deadline: one | two", None),
    ],
)  # fmt: skip
def test_endings(evidence: Evidence, how: dict, outcome: Outcome, reason: str, status: int | None) -> None:
    ending = classify(evidence, **{"asked": False, "killed": False, "late": False, **how})
    assert (ending.outcome, ending.reason, ending.status) == (outcome, reason, status)


def test_reasons_are_bounded() -> None:
    assert len(classify(Evidence(output=("x" * 9000,)), asked=False, killed=False, late=True).reason) < 600


def test_signals_without_a_name_have_a_number() -> None:
    assert (signal_name(15), signal_name(99)) == ("SIGTERM", "signal 99")
