from __future__ import annotations

import ast
import re
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.model import errors
from actors.model.errors import Conflict, InvalidInput, Problem
from actors.model.image import ImageConfig
from actors.model.network import GATEWAY_MAC, Lease, guest_mac
from actors.model.paths import HostPaths
from actors.model.resources import Capacity

ids = st.uuids(version=4)
capacities = st.builds(
    Capacity,
    vcpu_total=st.integers(0, 4096), memory_total=st.integers(0, 1 << 30),
    vcpu_reserved=st.integers(0, 4096), memory_reserved=st.integers(0, 1 << 30),
    vcpu_overcommit=st.floats(0, 100), memory_overcommit=st.floats(0, 100), memory_overhead=st.integers(0, 1024),
)  # fmt: skip


@given(capacities)
def test_capacity_is_whole_never_negative_and_never_rounded_up(capacity: Capacity) -> None:
    for have, reserved, ratio, given_out in (
        (capacity.vcpu_total, capacity.vcpu_reserved, capacity.vcpu_overcommit, capacity.vcpu),
        (capacity.memory_total, capacity.memory_reserved, capacity.memory_overcommit, capacity.memory),
    ):
        assert isinstance(given_out, int)
        assert given_out >= 0
        assert given_out <= max(0, have - reserved) * ratio


@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.none() | st.ip_addresses(v=6))
def test_macs_are_unicast_local_unique_on_a_host_and_never_the_gateways(
    one: IPv4Address, two: IPv4Address, v6: IPv6Address | None
) -> None:
    first, second = guest_mac(Lease(v6, one)), guest_mac(Lease(None, two))
    assert re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", first)
    assert int(first[:2], 16) & 0b11 == 0b10
    assert (first == second) == (one == two)
    # Only 169.254.0.1 itself, which no pool holds, would clash.
    assert (first == GATEWAY_MAC) == (one == IPv4Address("169.254.0.1"))


@given(ids)
def test_socket_paths_of_a_vm_fit_in_the_kernels_108_bytes(placement: UUID) -> None:
    paths = HostPaths(Path("/var/lib/zeitwork"), Path("/run/zeitwork-0a1b2c3d"))
    assert len(str(paths.vm_run(placement) / "firecracker.socket")) < 108
    assert paths.placement(placement).parent == paths.placements


def test_a_problem_says_where_what_and_what_to_do() -> None:
    problem = InvalidInput("is too large", field="resources.memory", fix="ask for less")
    assert str(problem) == "resources.memory: is too large (ask for less)"
    assert str(Conflict("is running")) == "is running"
    special = Conflict("no", code="has-instances", status=412)
    assert (special.code, special.status) == ("has-instances", 412)
    assert (Conflict.code, Conflict.status) == ("conflict", 409)


def test_codes_are_kebab_case_and_each_kind_has_its_own() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Problem)]
    codes = [kind.code for kind in kinds]
    assert len(set(codes)) == len(codes) > 4
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)
    assert all(400 <= kind.status < 600 for kind in kinds)


def test_the_command_line_is_entrypoint_then_cmd() -> None:
    assert ImageConfig(entrypoint=("a", "b"), cmd=("c",)).argv == ("a", "b", "c")
    assert ImageConfig().argv == ()


@pytest.mark.parametrize("module", sorted(Path(errors.__file__).parent.glob("*.py")), ids=lambda path: path.stem)
def test_values_are_frozen(module: Path) -> None:
    """Records cross tasks and mailboxes: none may change under a reader."""
    for node in ast.walk(ast.parse(module.read_text())):
        for decorator in getattr(node, "decorator_list", []) if isinstance(node, ast.ClassDef) else []:
            if "dataclass" in ast.unparse(decorator):
                assert "frozen=True" in ast.unparse(decorator), node.name  # type: ignore[attr-defined]
