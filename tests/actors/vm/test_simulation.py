"""The real host and VM actors over a machine in memory, killed at every await of a start and a stop.

What may never be is asserted where it would happen (`simulated`): a second monitor, one of which no intent tells,
things dropped under a running one, a database that is told what is not so. Here: how it all ends.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
import structlog

from actors.model.restart import RestartMode, RestartPolicy
from actors.model.states import Outcome, PlacementState
from tests.actors.vm.stage import Script, Stage, park, simulate

#: Orders in which trio runs what is ready together.
SEEDS = (1, 2)
JOBS = ("choose", "image", "template", "disk", "tap", "intent", "jail", "boot")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of lives would fill the log."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


# --- what happens in a life


async def start(stage: Stage) -> None:
    stage.arm()
    await stage.until(lambda: stage.up)


async def stop(stage: Stage) -> None:
    await stage.until(lambda: stage.up)
    stage.arm()
    stage.stop()
    await stage.until(lambda: stage.gone)


async def kill(stage: Stage) -> None:
    await stage.until(lambda: stage.up)
    stage.arm()
    stage.stop(force=True)
    await stage.until(lambda: stage.gone)


async def end(stage: Stage) -> None:
    """The placement is not wanted, or can not be started."""
    stage.arm()
    await stage.until(lambda: stage.gone)


async def park_it(stage: Stage) -> None:
    await stage.until(lambda: stage.up)
    stage.arm()
    await park(stage)


async def pause(stage: Stage) -> None:
    await stage.until(lambda: stage.up)
    stage.arm()
    stage.pause(True)
    await stage.until(lambda: stage.held_still)


async def resume(stage: Stage) -> None:
    await stage.until(lambda: stage.up)
    stage.pause(True)
    await stage.until(lambda: stage.held_still)
    stage.arm()
    stage.pause(False)
    await stage.until(lambda: stage.up)


async def crash(stage: Stage) -> None:
    """The app ends by itself a second after its start, and is started again."""
    await stage.until(lambda: stage.up)
    stage.arm()
    await stage.until(lambda: stage.up and len(stage.machine.processes) == 2)


async def last(stage: Stage) -> None:
    """The life that makes good what those before it left: the app runs, then is stopped."""
    await stage.until(lambda: stage.up)
    stage.stop()
    await stage.until(lambda: stage.gone)


async def fetch(stage: Stage) -> None:
    """Its image is not here: it takes far longer than a start may."""
    stage.arm()
    await stage.until(lambda: stage.database.reasons != [])
    await stage.until(lambda: stage.up)


async def stop_fetching(stage: Stage) -> None:
    stage.arm()
    await stage.until(lambda: stage.database.reasons != [])
    stage.stop()
    await stage.until(lambda: stage.gone)


# --- how it all has to end


def told_once(stage: Stage, outcome: Outcome = Outcome.STOPPED) -> None:
    told = stage.database.told
    assert [seen.state for seen in told].count(PlacementState.REMOVED) == 1
    assert told[-1].outcome is outcome, told[-1]


def every_await(
    lives: Sequence[Script],
    check: Callable[[Stage], None],
    *,
    between: Callable[[Stage], None] = lambda _: None,
    setup: Callable[[Stage], None] = lambda _: None,
    seeds: Sequence[int] = SEEDS,
) -> None:
    """Kill the first of the lives before each of its steps, until one run has no step left to be killed at."""
    for seed in seeds:
        at = 0
        while True:
            try:
                stage, [killed] = simulate(lives, [at], between=between, setup=setup, seed=seed)
                check(stage)
            except BaseException as error:
                error.add_note(f"killed before step {at}, seed {seed}")
                raise
            if not killed:
                break
            at += 1
        assert at > 10, "there was nothing to kill"


def failing(job: str) -> Callable[[Stage], None]:
    return lambda stage: setattr(stage.machine, "fails", job)


def restarting(stage: Stage) -> None:
    stage.database.row = replace(stage.database.row, restart=RestartPolicy(RestartMode.ON_FAILURE))


def losing_answers(stage: Stage) -> None:
    """Every second write is done and its answer lost."""
    stage.database.deaf = set(range(1, 1000, 2))


def unwanted(stage: Stage) -> None:
    stage.stop()


def test_nothing_is_killed() -> None:
    stage, _ = simulate([last], [])
    told_once(stage)
    states = [seen.state.value for seen in stage.database.told]
    assert states == ["preparing", "starting", "running", "stopping", "removed"]
    assert len(stage.machine.processes) == 1


def test_a_start_is_completed_wherever_it_was_killed() -> None:
    every_await([start, last], told_once)


def test_a_start_whose_answers_are_lost_is_completed_wherever_it_was_killed() -> None:
    every_await([start, last], told_once, setup=losing_answers, seeds=(1,))


def test_a_start_is_undone_wherever_it_was_killed_once_it_is_not_wanted() -> None:
    every_await([start, end], told_once, between=unwanted)


@pytest.mark.parametrize("job", JOBS)
def test_a_start_that_fails_leaves_nothing_wherever_it_was_killed(job: str) -> None:
    every_await([end, end], lambda stage: told_once(stage, Outcome.START_FAILED), setup=failing(job), seeds=(1,))


@pytest.mark.parametrize("job", JOBS)
def test_a_failure_that_is_mended_while_the_host_is_down_is_forgotten(job: str) -> None:
    def mend(stage: Stage) -> None:
        stage.machine.fails = ""

    async def any_end(stage: Stage) -> None:
        await stage.until(lambda: stage.up or stage.gone)
        if not stage.gone:
            await last(stage)

    def check(stage: Stage) -> None:
        # Told in the first life, or tried anew in the second.
        told_once(stage, stage.database.told[-1].outcome or Outcome.UNKNOWN)
        assert stage.database.told[-1].outcome in (Outcome.START_FAILED, Outcome.STOPPED)

    every_await([end, any_end], check, between=mend, setup=failing(job), seeds=(1,))


@pytest.mark.parametrize("how", [stop, kill])
def test_a_stop_is_completed_wherever_it_was_killed(how: Script) -> None:
    def check(stage: Stage) -> None:
        outcome = stage.database.told[-1].outcome
        told_once(stage, outcome or Outcome.UNKNOWN)
        # Killed between its SIGKILL and the word of it to the database, the next life does not know why it ended.
        assert outcome in (Outcome.STOPPED, *([Outcome.KILLED, Outcome.UNKNOWN] if how is kill else []))
        assert len(stage.machine.processes) == 1

    every_await([how, end], check)


def test_a_stop_whose_answers_are_lost_is_completed_wherever_it_was_killed() -> None:
    every_await([stop, end], told_once, setup=losing_answers, seeds=(1,))


@pytest.mark.parametrize("how", [stop, kill])
def test_a_deaf_guest_is_killed_wherever_its_stop_was(how: Script) -> None:
    def deaf(stage: Stage) -> None:
        stage.machine.deaf = True

    def check(stage: Stage) -> None:
        told_once(stage, stage.database.told[-1].outcome or Outcome.UNKNOWN)
        assert stage.machine.processes[0].status in (-9, -15)

    every_await([how, end], check, setup=deaf)


def test_parking_is_undone_or_completed_wherever_it_was_killed_and_keeps_the_disk() -> None:
    def check(stage: Stage) -> None:
        told_once(stage)
        assert stage.machine.disks == 1
        assert len(stage.machine.processes) <= 2

    every_await([park_it, last], check)


def test_what_was_being_parked_is_undone_wherever_it_was_killed_once_it_is_not_wanted() -> None:
    every_await([park_it, end], lambda stage: told_once(stage), between=unwanted)


def test_a_pause_is_completed_wherever_it_was_killed() -> None:
    async def go_on(stage: Stage) -> None:
        await stage.until(lambda: stage.held_still)
        stage.pause(False)
        await last(stage)

    every_await([pause, go_on], same_machine)


def test_going_on_is_completed_wherever_it_was_killed() -> None:
    every_await([resume, last], same_machine)


@pytest.mark.parametrize("how", [pause, resume])
def test_what_was_being_paused_is_stopped_wherever_it_was_killed(how: Script) -> None:
    every_await([how, end], same_machine, between=unwanted)


def same_machine(stage: Stage) -> None:
    told_once(stage)
    assert len(stage.machine.processes) == 1


def test_a_crash_is_told_once_and_the_app_runs_again_wherever_its_host_was_killed() -> None:
    def setup(stage: Stage) -> None:
        restarting(stage)
        stage.machine.crashes = 1

    def check(stage: Stage) -> None:
        told_once(stage)
        assert stage.machine.disks == 1
        waits = [seen for seen in stage.database.told if seen.state is PlacementState.WAITING]
        assert [seen.outcome for seen in waits] == [Outcome.EXITED]
        assert stage.database.row.failures == 1

    async def both(stage: Stage) -> None:
        await stage.until(lambda: stage.up and not stage.machine.crashes and len(stage.machine.processes) >= 2)
        await last(stage)

    every_await([crash, both], check, setup=setup)


def test_a_start_that_is_stopped_anywhere_and_killed_anywhere_leaves_nothing() -> None:
    chance = random.Random(3)
    for number in range(150):
        stopped_at, killed_at = chance.randrange(60), chance.randrange(80)

        async def stop_midway(stage: Stage, stopped_at: int = stopped_at) -> None:
            stage.arm()
            await stage.killer.mark(stopped_at).wait()
            stage.stop()
            await stage.until(lambda: stage.gone)

        try:
            stage, _ = simulate([stop_midway, end], [stopped_at + killed_at], between=unwanted, seed=number)
            told_once(stage)
        except BaseException as error:
            error.add_note(f"stopped at {stopped_at}, killed {killed_at} later, seed {number}")
            raise


FIRST = {"start": start, "stop": stop, "kill": kill, "park": park_it, "crash": crash}


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("wanted", [True, False])
def test_a_recovery_that_is_killed_too_is_recovered_from(first: str, wanted: bool) -> None:
    chance = random.Random(f"{first} {wanted}")
    wanted = wanted and first in ("start", "park", "crash")

    def setup(stage: Stage) -> None:
        if first == "crash":
            restarting(stage)
            stage.machine.crashes = 1

    for number in range(40):
        kills = [chance.randrange(70), chance.randrange(40)]
        if chance.random() < 0.3:
            kills.append(chance.randrange(40))
        lives: list[Script] = [FIRST[first], *[start if wanted else end] * (len(kills) - 1), last if wanted else end]
        try:
            stage, _ = simulate(
                lives, kills, between=(lambda _: None) if wanted else unwanted, setup=setup, seed=number
            )
            outcome = stage.database.told[-1].outcome
            told_once(stage, outcome or Outcome.UNKNOWN)
        except BaseException as error:
            error.add_note(f"killed at {kills}, seed {number}")
            raise


def fetching(times: int) -> Callable[[Stage], None]:
    return lambda stage: setattr(stage.machine, "fetching", times)


def test_an_image_may_take_longer_to_fetch_than_a_start_and_how_far_it_is_is_told() -> None:
    stage, _ = simulate([fetch, last], [], setup=fetching(100))
    told_once(stage)
    steps = [f"fetching its image: {percent} %" for percent in range(10, 101, 10)]
    assert stage.database.reasons == [(PlacementState.PREPARING, reason) for reason in steps]
    assert [seen.state for seen in stage.database.told][:3] == [
        PlacementState.PREPARING,
        PlacementState.STARTING,
        PlacementState.RUNNING,
    ]
    assert stage.database.told[1].reason == ""


def test_a_placement_that_waits_for_its_image_can_be_stopped() -> None:
    stage, _ = simulate([stop_fetching], [], setup=fetching(10_000))
    told_once(stage)
    assert stage.machine.processes == []


def test_killed_anywhere_while_its_image_is_fetched() -> None:
    every_await([fetch, last], told_once, setup=fetching(12), seeds=SEEDS[:1])
