"""Root filesystems that placements wait for and that are fetched to this host: a table without any input or output.

One fetch per digest, however many wait for it. It goes on as long as somebody asks; failures that may pass are tried
again with growing waits, and end when they have lasted for too long.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from actors.images.messages import Fetching
from actors.images.progress import Progress
from actors.model.errors import Problem, Unavailable
from runtime import Reply

#: Seconds after which whoever waits hears how far it is, and after which a fetch that nobody asks for is given up.
SIGN, UNASKED = 1.0, 60.0
#: Seconds for which failures that may pass are tried again, with the first and the longest wait between two tries.
PATIENCE, RETRY_FIRST, RETRY_MAX = 600.0, 2.0, 60.0
#: Seconds for which a failure answers whoever asks again: many that start anew must not ask the registry each.
COOL = 5.0
#: So many may wait at once; a host has never room for so many guests.
MOST_WAITING = 10_000
#: Progress in percent is told in steps of so many: each one that a placement repeats is an event in the database.
_STEP = 10


@dataclass(eq=False, slots=True)
class Fetch:
    """One digest on its way. Times are monotonic; ``failing_since`` is when failures without a success began."""

    digest: str
    source: str
    asked_at: float
    progress: Progress = field(default_factory=Progress)
    running: bool = False
    failures: int = 0
    failing_since: float | None = None
    retry_at: float = 0.0
    problem: Problem | None = None
    waiting: list[Reply] = field(default_factory=list)

    def sign(self) -> Fetching:
        """Return how far it is, in words for people."""
        if self.running:
            return Fetching(f"fetching its image: {self.progress.percent // _STEP * _STEP} %{self._trouble()}")
        if self.problem is not None:
            return Fetching(f"fetching its image{self._trouble()}")
        return Fetching("fetching its image: other images are fetched first")

    def _trouble(self) -> str:
        return "" if self.problem is None else f", tried again: {self.problem.detail}"


class Fetches:
    """The table. ``concurrent`` fetches run at once, the others in the order in which they were asked for."""

    def __init__(self, concurrent: int) -> None:
        self._concurrent = concurrent
        self._fetches: dict[str, Fetch] = {}
        self._failed: dict[str, tuple[float, Problem]] = {}

    def __len__(self) -> int:
        return len(self._fetches)

    @property
    def running(self) -> int:
        """How many run."""
        return sum(fetch.running for fetch in self._fetches.values())

    def join(self, digest: str, reply: Reply, now: float) -> bool:
        """Have somebody wait for a fetch that there is already; False when there is none."""
        fetch = self._fetches.get(digest)
        if fetch is None:
            return False
        fetch.asked_at = now
        fetch.waiting.append(reply)
        return True

    def ask(self, digest: str, source: str, reply: Reply, now: float) -> None:
        """Have somebody wait for a digest that is not here.

        Raises the problem of a moment ago, and `Unavailable` when too many wait.
        """
        if self.join(digest, reply, now):
            return
        failed = self._failed.get(digest)
        if failed is not None and now < failed[0]:
            raise failed[1]
        if sum(len(fetch.waiting) for fetch in self._fetches.values()) >= MOST_WAITING:
            raise Unavailable("too many wait for images at once", fix="try again in a moment")
        self._fetches[digest] = Fetch(digest, source, now, waiting=[reply])

    def start(self, now: float) -> list[Fetch]:
        """Return what is to be begun now; it counts as running."""
        due = [fetch for fetch in self._fetches.values() if not fetch.running and fetch.retry_at <= now]
        due = due[: max(0, self._concurrent - self.running)]
        for fetch in due:
            fetch.running = True
            fetch.progress = Progress()
        return due

    def succeeded(self, fetch: Fetch) -> list[Reply]:
        """Take a fetch that ended well off the table and return who waits for it."""
        if self._fetches.get(fetch.digest) is not fetch:
            return []
        del self._fetches[fetch.digest]
        self._failed.pop(fetch.digest, None)
        return fetch.waiting

    def failed(self, fetch: Fetch, problem: Problem, now: float, chance: float) -> list[Reply]:
        """Return who has to hear of a failure: nobody while it is tried again. ``chance`` in [0, 1) is jitter."""
        if self._fetches.get(fetch.digest) is not fetch:
            return []
        fetch.running = False
        fetch.problem = problem
        fetch.failures += 1
        if fetch.failing_since is None:
            fetch.failing_since = now
        if isinstance(problem, Unavailable) and now - fetch.failing_since < PATIENCE:
            ceiling: float = min(RETRY_MAX, RETRY_FIRST * 2.0 ** min(fetch.failures - 1, 10))
            fetch.retry_at = now + ceiling * (0.5 + 0.5 * chance)
            return []
        del self._fetches[fetch.digest]
        self._failed = {digest: one for digest, one in self._failed.items() if now < one[0]}
        self._failed[fetch.digest] = (now + COOL, problem)
        return fetch.waiting

    def signs(self) -> Iterable[tuple[Reply, Fetching]]:
        """Return what to tell each that waits; they ask again if they still want it."""
        found = []
        for fetch in self._fetches.values():
            sign = fetch.sign()
            found += [(reply, sign) for reply in fetch.waiting]
            fetch.waiting = []
        return found

    def unasked(self, now: float) -> list[Fetch]:
        """Take what nobody has asked for lately off the table and return it."""
        gone = [one for one in self._fetches.values() if not one.waiting and now - one.asked_at >= UNASKED]
        for fetch in gone:
            del self._fetches[fetch.digest]
        return gone
