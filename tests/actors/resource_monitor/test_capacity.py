from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.resource_monitor.capacity import OVERHEAD, CapacityPolicy, compute_capacity, default_reserve

cpus = st.floats(0.01, 1024, allow_nan=False)
memory = st.integers(0, 1 << 24)
policies = st.builds(
    CapacityPolicy,
    vcpu_reserved=st.integers(0, 2000),
    memory_reserved=st.none() | st.integers(0, 1 << 25),
    vcpu_overcommit=st.floats(0.1, 100),
    memory_overcommit=st.floats(0.1, 100),
)


@given(cpus, memory, policies, st.sampled_from([None, "firecracker", "qemu", "another"]))
def test_capacity_is_never_negative_and_never_above_what_is_there(
    count: float, mib: int, policy: CapacityPolicy, hypervisor: str | None
) -> None:
    capacity = compute_capacity(count, mib, policy, hypervisor)
    assert 0 <= capacity.vcpu <= capacity.vcpu_total * policy.vcpu_overcommit
    assert 0 <= capacity.memory <= mib * policy.memory_overcommit
    assert capacity.vcpu_total >= 1
    assert capacity.vcpu_total <= max(1, count)
    assert min(OVERHEAD.values()) <= capacity.memory_overhead <= max(OVERHEAD.values())


@given(memory, memory)
def test_a_larger_machine_never_gives_less(mib: int, more: int) -> None:
    policy = CapacityPolicy()
    small, large = sorted((mib, more))
    # One MiB of rounding in the reserve.
    assert compute_capacity(1, small, policy, None).memory <= compute_capacity(1, large, policy, None).memory + 1


def test_the_default_reserve() -> None:
    assert default_reserve(0) == 0
    assert default_reserve(600) == 300
    assert default_reserve(1024) == 512
    assert default_reserve(8192) == 512
    assert default_reserve(65536) == 3276


def test_fractions_of_a_cpu_are_rounded_down_but_one_is_always_there() -> None:
    assert compute_capacity(0.4, 1024, CapacityPolicy(), None).vcpu_total == 1
    assert compute_capacity(3.9, 1024, CapacityPolicy(), None).vcpu_total == 3


def test_defaults() -> None:
    capacity = compute_capacity(2.0, 8192, CapacityPolicy(), "firecracker")
    assert (capacity.vcpu, capacity.memory, capacity.memory_overhead) == (8, 7680, 32)


def test_until_it_is_known_what_runs_guests_there_is_room_for_the_hungriest() -> None:
    assert compute_capacity(2.0, 8192, CapacityPolicy(), None).memory_overhead == OVERHEAD["qemu"]
