"""What a supervisor remembers of one child across its lives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.name import Name

if TYPE_CHECKING:
    from runtime.life import Life
    from runtime.restart import History
    from runtime.spec import Spec
    from runtime.supervisor import Supervisor
    from runtime.timers import Timer


class Child:
    """A name with a spec and at most one life at a time."""

    __slots__ = ("history", "last_error", "life", "name", "removed", "restarts", "spec", "supervisor", "timer", "trace")

    def __init__(self, name: Name, spec: Spec, supervisor: Supervisor) -> None:
        self.name = name
        self.spec = spec
        self.supervisor = supervisor
        self.life: Life | None = None
        self.restarts = 0
        #: What ended the latest life that failed; text, so that no traceback keeps its frames.
        self.last_error: str | None = None
        self.history: History = ()
        #: The restart that is due.
        self.timer: Timer | None = None
        self.trace = False
        #: Set once it is stopped for good or gone; nothing starts it again.
        self.removed = False
