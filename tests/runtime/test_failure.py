"""Which of what was raised is data for a supervisor, and which must go on."""

from __future__ import annotations

import trio
import trio.testing

from runtime import StartFailed
from runtime.failure import sift
from runtime.reply import passes_to_asker
from tests.runtime.parts import Refused


async def cancelled() -> trio.Cancelled:
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.sleep_forever()
        except trio.Cancelled as error:
            kept = error
            raise
    return kept


async def test_errors_and_groups_of_them_are_failures() -> None:
    for error in (ValueError(), ExceptionGroup("two", [ValueError(), OSError()])):
        assert sift(error) == (error, None)


async def test_interrupts_and_cancellations_are_not() -> None:
    for error in (KeyboardInterrupt(), SystemExit(1), await cancelled()):
        assert sift(error) == (None, error)


async def test_a_mixed_group_is_both_and_an_interrupt_goes_before_a_cancellation() -> None:
    interrupt, fault = KeyboardInterrupt(), ValueError()
    inner = BaseExceptionGroup("inner", [fault, interrupt])
    failure, fatal = sift(BaseExceptionGroup("outer", [await cancelled(), inner]))
    assert isinstance(failure, ExceptionGroup)
    assert failure.exceptions[0].exceptions == (fault,)
    assert fatal is interrupt
    failure, fatal = sift(BaseExceptionGroup("outer", [await cancelled(), fault]))
    assert isinstance(failure, ExceptionGroup)
    assert isinstance(fatal, trio.Cancelled)


async def test_only_errors_made_for_askers_pass_to_them() -> None:
    assert passes_to_asker(Refused("no"))
    assert not passes_to_asker(ValueError())
    assert not passes_to_asker(StartFailed("a", "detail but no code"))
    # Like an OSError's subclasses that carry numbers for codes.
    odd = SystemError()
    odd.code, odd.detail = 5, "five"  # type: ignore[attr-defined]
    assert not passes_to_asker(odd)
