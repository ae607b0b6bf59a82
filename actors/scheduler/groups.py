"""What brings a group nearer to what is wanted of it, as a pure function of what it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from actors.model.states import InstanceDesired, InstanceState, NodeState
from actors.scheduler.store import GroupChange, GroupView, Member

#: First and largest wait in seconds until slots of members that failed for good are filled again.
BACKOFF_FIRST, BACKOFF_MAX = 1.0, 300.0
#: Seconds that all members have to run after such a wait before it counts as over: what fails again before that makes
#: the next wait longer.
CALM = 60.0

#: So many members are made or ended by one change: it is one transaction.
AT_ONCE = 100

#: Whose end harms least, when there are too many; a state that is not here is that of one that serves.
_TROUBLED = (InstanceState.UNKNOWN, InstanceState.CRASH_LOOP, InstanceState.STARTING, InstanceState.STOPPING)
_SERVING = (InstanceState.RUNNING, InstanceState.PAUSED)


def reconcile(group: GroupView, chance: float) -> GroupChange | None:
    """Return what is to be done now, or None when nothing is. Where `AT_ONCE` are made or ended, there may be more.

    ``chance`` (0 to 1) is where in its range a wait lies, so that many groups do not try again at once.
    """
    wanted = [member for member in group.members if member.desired is not InstanceDesired.TERMINATED]
    if group.deleted:
        if not group.members:
            return GroupChange(group.id, group.generation, gone=True)
        return _change(group, terminate=wanted)
    failed = [member for member in wanted if _failed(member)]
    alive = [member for member in wanted if not _failed(member)]
    surplus = sorted(alive, key=_dispensable)[: max(0, len(alive) - group.replicas)]
    if failed and group.retry_in > 0 and len(wanted) < group.replicas:
        # Others ended with it: that is the failure that is waited for already.
        return _change(group, terminate=[*failed, *surplus])
    if failed:
        failures = group.failures + 1
        return _change(group, terminate=[*failed, *surplus], failures=failures, retry_in=backoff(failures, chance))
    missing = group.replicas - len(alive)
    if missing > 0 and group.retry_in > 0:
        return None
    if missing > 0:
        slots = _free_slots(group.members)
        create = tuple(next(slots) for _ in range(min(missing, AT_ONCE)))
        # Once all are there the time counts for which they have to run.
        calm = CALM if group.failures and missing <= AT_ONCE else None
        return _change(group, create=create, retry_in=calm)
    if group.failures and group.retry_in <= 0 and all(_in_order(member) for member in alive):
        return _change(group, terminate=surplus, failures=0, retry_in=0.0)
    return _change(group, terminate=surplus)


def backoff(failures: int, chance: float) -> float:
    """Return the seconds to wait after so many failures in a row: doubled each time, the upper half of it by chance."""
    ceiling = min(BACKOFF_MAX, 2.0 * BACKOFF_FIRST * (1 << min(max(0, failures - 1), 20)))
    return ceiling / 2 + chance * ceiling / 2


def _change(
    group: GroupView,
    *,
    create: tuple[int, ...] = (),
    terminate: Iterable[Member] = (),
    failures: int | None = None,
    retry_in: float | None = None,
) -> GroupChange | None:
    ended = tuple(member.id for member in terminate)[:AT_ONCE]
    if not create and not ended and failures is None and retry_in is None:
        return None
    return GroupChange(group.id, group.generation, create, ended, failures, retry_in)


def _failed(member: Member) -> bool:
    """Say whether it ended for good although it is wanted running: by failing, or by itself."""
    return member.desired is InstanceDesired.RUNNING and member.state in (InstanceState.FAILED, InstanceState.STOPPED)


def _in_order(member: Member) -> bool:
    """Say whether it is what is wanted of it. What a person stopped is."""
    return member.desired is InstanceDesired.STOPPED or member.state in _SERVING


def _dispensable(member: Member) -> tuple[int, int]:
    """Return the key that sorts members by which is ended first: what serves nobody, then the highest slot."""
    if not member.placed:
        rank = 0
    elif member.state in _TROUBLED or member.node_state is not NodeState.READY:
        rank = 1 + (_TROUBLED.index(member.state) if member.state in _TROUBLED else len(_TROUBLED))
    else:
        rank = 2 + len(_TROUBLED)
    return rank, -member.slot


def _free_slots(members: Iterable[Member]) -> Iterator[int]:
    """Yield slots that nobody has, the smallest first. One that is being ended has its own until it is gone."""
    taken = {member.slot for member in members}
    slot = 0
    while True:
        if slot not in taken:
            yield slot
        slot += 1
