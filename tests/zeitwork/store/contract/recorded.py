"""Sequences of operations: what was not the same on both sides once, and what shows a bug that is planted."""

from __future__ import annotations

from collections.abc import Callable

from actors.model.health import HealthState
from actors.model.states import InstanceDesired, NodeDesired, NodeState, Outcome, PlacementState
from actors.scheduler.store import Move
from tests.simulation.store import Bug
from tests.zeitwork.store.contract.both import Both

Sequence = Callable[[Both], None]


def _run(both: Both, *, singleton: bool = False, check: int = 0) -> None:
    both.create(singleton=singleton, check=check)
    both.evaluate()
    both.start(1)


def _remove(both: Both, placement: int = 0) -> None:
    both.observe(placement, PlacementState.REMOVED, Outcome.STOPPED)


def _made_together_waits_equally_long(both: Both) -> None:
    # Postgres measured each row's wait with a clock of its own, so the members came in the reverse order.
    both.group(0, 4, singleton=True)
    both.reconcile()
    both.evaluate()


def _a_group_uses_its_image_and_tells_what_it_waits_for(both: Both) -> None:
    both.group(0, 2)
    both.capacity(0, 3)
    both.capacity(1, 3)
    both.reconcile()
    both.evaluate()
    both.delete_group(0)
    both.reconcile()


def _a_host_that_is_deleted_takes_what_nobody_needs(both: Both) -> None:
    _run(both)
    both.wait(64)
    both.mark_down(0)
    both.mark_down(0)
    both.delete_node(0)
    both.relocate()
    both.delete_node(0)
    both.delete_node(1)


def _a_host_that_never_comes_back_gives_up_all_it_had(both: Both) -> None:
    _run(both, singleton=True)
    _run(both)
    both.delete_node(0, dead=True)
    both.wait(64)
    both.mark_down(0)
    both.relocate()
    both.delete_node(0, dead=True)
    both.evaluate()
    both.delete_node(0, dead=True)
    both.register(0)
    both.leave(1)
    both.leave(1, force=True)
    both.evaluate()
    both.register(1)


def _what_was_given_up_is_not_moved_again(both: Both) -> None:
    _run(both)
    both.mark_down(0)
    both.relocate(twice=True)
    both.evaluate()
    both.move([(0, 0, Move.UNKNOWN), (0, 0, Move.REPLACE)])


def _a_grace_becomes_shorter_and_never_longer(both: Both) -> None:
    _run(both)
    both.mark_down(0, grace=17.0)
    both.mark_down(0, grace=60.0)
    both.relocate()
    both.mark_down(0, late=True)
    both.mark_down(0)
    both.relocate()
    both.state(1, NodeState.DOWN)
    both.mark_down(0, grace=17.0)
    both.wait(18)
    both.mark_down(0)
    both.heartbeat(1)


def _an_address_that_was_not_given_is_not_passed_over(both: Both) -> None:
    # This host has two addresses of one family, and many of the other.
    both.register(2, 2)
    both.capacity(2, 0)
    both.state(2, NodeState.READY)
    for _ in range(3):
        both.create()
    both.assign([(0, 0, 2), (1, 0, 2), (2, 0, 2)], [])
    _remove(both)
    both.wait(64)
    both.assign([(2, 0, 2)], [])


def _a_refusal_of_the_same_twice_is_one(both: Both) -> None:
    both.create()
    both.close_node(0, "its disk is full")
    both.assign([(0, 0, 0), (0, 0, 0), (0, 1, 0)], [])


def _healthy_before_it_takes_over(both: Both) -> None:
    _run(both, check=1)
    both.health(0, HealthState.HEALTHY, "it answers")
    both.desire_node(0, NodeDesired.DRAINING)
    both.relocate()
    both.evaluate()
    both.start(1)
    both.health(1, HealthState.HEALTHY, "it answers")
    both.health(0, HealthState.HEALTHY, "it answers")


def _nothing_to_move_asks_for_no_term(both: Both) -> None:
    both.relocate(ended=2, twice=True)


def _another_number_ends_a_wait(both: Both) -> None:
    both.group(0, 1)
    both.change_group(0, failures=1, retry_in=30.0)
    both.scale(0, 2)
    both.reconcile()


def _what_operators_say_of_hosts(both: Both) -> None:
    both.taints(0, 2)
    both.taints(0, 1)
    both.desire_node(1, NodeDesired.CORDONED)
    both.create(requirements=2)
    both.evaluate()


def _what_a_host_has_seen_ends_an_older_term(both: Both) -> None:
    both.create()
    both.evaluate()
    both.acquire(0, above=3)
    both.commands(0, 1, ended=1)


#: What was not the same on both sides once.
FOUND: dict[str, Sequence] = {
    one.__name__[1:]: one
    for one in (
        _made_together_waits_equally_long,
        _a_group_uses_its_image_and_tells_what_it_waits_for,
        _a_host_that_is_deleted_takes_what_nobody_needs,
        _a_host_that_never_comes_back_gives_up_all_it_had,
        _what_was_given_up_is_not_moved_again,
        _a_grace_becomes_shorter_and_never_longer,
        _an_address_that_was_not_given_is_not_passed_over,
        _a_refusal_of_the_same_twice_is_one,
        _healthy_before_it_takes_over,
        _nothing_to_move_asks_for_no_term,
        _another_number_ends_a_wait,
        _what_operators_say_of_hosts,
        _what_a_host_has_seen_ends_an_older_term,
    )
}


def _act_without_a_lease(both: Both) -> None:
    both.create()
    both.assign([(0, 0, 0)], [], ended=1)


def _act_after_the_term(both: Both) -> None:
    both.create()
    both.term()
    both.acquire(0, boot=1)
    both.resign()
    both.term()
    both.assign([(0, 0, 0)], [], ended=1)


def _place_twice(both: Both) -> None:
    both.create()
    both.assign([(0, 0, 0)], [])
    both.assign([(0, 0, 1)], [])


def _place_several(both: Both) -> None:
    _run(both)
    both.create(size=2)
    both.assign([(1, 0, 0)], [])


def _stop_and_start(both: Both) -> None:
    _run(both)
    both.desire(0, InstanceDesired.STOPPED)
    _remove(both)
    both.desire(0, InstanceDesired.RUNNING)
    both.evaluate()


def _observe_too_late(both: Both) -> None:
    _run(both)
    both.observe(0, PlacementState.STOPPING, expected=(PlacementState.ASSIGNED,))


def _lose_a_singleton(both: Both) -> None:
    _run(both, singleton=True)
    both.wait(64)
    both.mark_down(0)
    both.mark_down(0)
    both.relocate()


def _move_to_the_end(both: Both) -> None:
    _run(both)
    both.desire_node(0, NodeDesired.DRAINING)
    both.desire_node(1, NodeDesired.DRAINING)
    both.relocate()
    both.desire_node(0, NodeDesired.READY)
    both.desire_node(1, NodeDesired.READY)
    both.replace(0)
    both.evaluate()
    both.start(1)


def _remove_and_hear_of(both: Both) -> None:
    both.wait(64)
    both.delete_node(0)
    both.heartbeat(0)


def _remove_what_runs(both: Both) -> None:
    _run(both)
    both.wait(64)
    both.delete_node(0)
    both.delete_node(1)


def _remove_as_dead_what_lives(both: Both) -> None:
    both.delete_node(0, dead=True)


def _remove_as_dead_what_runs(both: Both) -> None:
    _run(both)
    both.wait(64)
    both.delete_node(0, dead=True)
    both.delete_node(1, dead=True)


def _invite_twice(both: Both) -> None:
    both.invite(3)
    both.invite(3)
    both.invite(3, 1)


#: What shows each bug of the double that can be planted.
SHOWN: dict[Bug, Sequence] = {
    Bug.NO_FENCE: _act_without_a_lease,
    Bug.NO_EPOCH_CHECK: _act_after_the_term,
    Bug.DOUBLE_PLACEMENT: _place_twice,
    Bug.CAPACITY_IGNORED: _place_several,
    Bug.CAPACITY_TWICE: _place_several,
    Bug.LEASE_LEAKED: _stop_and_start,
    Bug.NO_REST: _stop_and_start,
    Bug.BLIND_WRITE: _observe_too_late,
    Bug.STOP_FORGOTTEN: _stop_and_start,
    Bug.SINGLETON_TWICE: _lose_a_singleton,
    Bug.KEPT_FOR_EVER: _move_to_the_end,
    Bug.EARLY_END: _move_to_the_end,
    Bug.RAISED_BY_BEAT: _remove_and_hear_of,
    Bug.REMOVED_BLINDLY: _remove_what_runs,
    Bug.REMOVED_ALIVE: _remove_as_dead_what_lives,
    Bug.LEFT_FOR_LOST: _remove_as_dead_what_runs,
    Bug.INVITED_TWICE: _invite_twice,
}
