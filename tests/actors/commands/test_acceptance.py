"""Which commands a host heeds."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.commands import acceptance
from actors.commands.acceptance import Memory
from actors.commands.messages import CommandKind
from actors.model.errors import Conflict, InvalidInput
from runtime.links.errors import StaleEpoch
from tests.actors.commands.orders import EPOCH, command

HERE = UUID(int=1)
CREATE, STOP, DELETE = CommandKind


def test_a_leader_whose_time_is_over_is_refused_and_a_later_one_is_not() -> None:
    memory = Memory(HERE, EPOCH)
    with pytest.raises(StaleEpoch, match="epoch 7 has begun"):
        memory.accept(command(epoch=EPOCH - 1), 5.0)
    assert memory.accept(command(epoch=EPOCH), 5.0)
    assert memory.accept(command(epoch=EPOCH + 1), 5.0)
    with pytest.raises(StaleEpoch):
        memory.accept(command(epoch=EPOCH), 5.0)


@pytest.mark.parametrize("left", [0.0, -1.0, float("nan")])
def test_what_comes_too_late_is_refused(left: float) -> None:
    memory = Memory(HERE)
    with pytest.raises(Conflict) as refused:
        memory.accept(command(), left)
    assert (refused.value.code, refused.value.field) == ("expired", "deadline")
    # Nothing of it is remembered.
    assert memory.epoch == 0


@pytest.mark.parametrize("number", [0, -1, 2**62 + 1, 10**5000], ids=["none", "negative", "high", "endless"])
def test_what_no_leader_counts_is_refused_and_not_remembered(number: int) -> None:
    memory = Memory(HERE, EPOCH)
    for field, bad in (("epoch", command(epoch=number)), ("generation", command(generation=number))):
        with pytest.raises(InvalidInput) as refused:
            memory.accept(bad, 5.0)
        assert refused.value.field == field
    assert memory.epoch == EPOCH
    assert memory.accept(command(), 5.0)


def test_what_is_for_another_host_is_refused() -> None:
    with pytest.raises(Conflict) as refused:
        Memory(HERE).accept(command(node=2), 5.0)
    assert refused.value.code == "wrong-host"


def test_what_was_ended_is_not_made_again_by_a_command_that_comes_late() -> None:
    memory = Memory(HERE)
    assert memory.accept(command(CREATE, 1), 5.0)
    assert memory.accept(command(CREATE, 1), 5.0)  # sent again
    assert memory.accept(command(STOP, 1), 5.0)
    assert not memory.accept(command(CREATE, 1), 5.0)
    assert memory.accept(command(CREATE, 2), 5.0)
    assert not memory.accept(command(CREATE, 1), 5.0)
    # The older one still has to end, although a newer one is there.
    assert memory.accept(command(DELETE, 1), 5.0)
    assert memory.accept(command(CREATE, 2), 5.0)
    # Of another instance nothing is known.
    assert memory.accept(command(CREATE, 1, instance=2), 5.0)


def test_a_later_leader_may_count_generations_from_an_earlier_one() -> None:
    """It has a database that was restored from a backup, and an epoch above all that any host has seen."""
    memory = Memory(HERE)
    assert memory.accept(command(DELETE, 9), 5.0)
    assert memory.accept(command(CREATE, 3, epoch=EPOCH + 1), 5.0)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance, "MOST_REMEMBERED", 10)
    memory = Memory(HERE)
    for number in range(100):
        assert memory.accept(command(instance=number), 5.0)
    assert len(memory) == 10


COMMANDS = st.lists(
    st.builds(
        command,
        st.sampled_from(CommandKind),
        st.integers(1, 4),
        st.integers(1, 3),
        instance=st.integers(1, 2),
    ),
    max_size=30,
)


@given(COMMANDS)
def test_epochs_only_grow_and_what_ended_stays_ended_within_one(commands: list) -> None:  # type: ignore[type-arg]
    memory, highest, ended, made = Memory(HERE), 0, set(), dict[UUID, int]()
    for one in commands:
        try:
            heeded = memory.accept(one, 1.0)
        except StaleEpoch:
            assert one.epoch < highest
            continue
        assert one.epoch >= highest
        if one.epoch > highest:
            highest, ended, made = one.epoch, set(), {}
        if one.kind is CREATE:
            if heeded:
                assert not any(one.instance_id == other and one.generation <= gone for other, gone in ended)
                assert one.generation >= made.get(one.instance_id, 0)
                made[one.instance_id] = one.generation
        else:
            assert heeded
            ended.add((one.instance_id, one.generation))
        assert memory.epoch == highest
