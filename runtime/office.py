"""A term of leadership as those who act in it see it: to be asked again before each effect."""

from __future__ import annotations

from collections.abc import Callable

from runtime.lease import NotLeading, Term


class Office:
    """One term in this process. Over when its deadline has passed or it was ended, whichever comes first, for good."""

    def __init__(
        self, term: Term, until: float, monotonic: Callable[[], float], doubted: Callable[[str], None] | None = None
    ) -> None:
        self._term = term
        self._until = until
        self._monotonic = monotonic
        self._doubted = doubted
        self._ended = ""

    def term(self) -> Term:
        """Return the term, to act in it now. Raises ``NotLeading`` when it is over."""
        if self._ended:
            raise NotLeading(f"epoch {self._term.epoch} is over: {self._ended}")
        if self._monotonic() >= self._until:
            # Whatever else still runs: a process that was paused finds itself here before anybody has told it.
            raise NotLeading(f"epoch {self._term.epoch} is over: its deadline has passed")
        return self._term

    def extend(self, until: float) -> None:
        """Make it last until then; one that is over stays so."""
        self._until = max(self._until, until)

    def end(self, why: str) -> None:
        """Make it be over now."""
        self._ended = self._ended or why

    def doubt(self, why: str) -> None:
        """Tell whoever runs the election that this term seems to be over (a transaction of it was refused)."""
        if not self._ended:
            self.end(why)
            if self._doubted is not None:
                self._doubted(why)
