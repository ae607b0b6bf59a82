"""What the host decides from what it reads: absence alone never destroys anything."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from uuid import UUID

import trio
from hypothesis import given
from hypothesis import strategies as st

from actors.host.reconcile import Child, decide, unknown
from actors.model.paths import HostPaths
from actors.model.records import Placement
from actors.vm.leftovers import KEPT, VmLeftovers
from actors.vm.messages import Leftover
from tests.actors.host.file_store import to_placement

OURS = "cluster-a"
IDS = [uuid.UUID(int=index) for index in range(1, 6)]


def placement(identifier: UUID, *, wanted: bool = True, state: str = "running") -> Placement:
    row = {"state": state, "wanted": wanted, "boot_id": None, "index": 0}
    return to_placement(identifier, json.loads(json.dumps(row)))


def leftover(identifier: UUID, cluster: str | None = OURS) -> Leftover:
    return Leftover(identifier, cluster, 1, "qemu", "zwx")


subsets = st.sets(st.sampled_from(IDS))


@given(wanted=subsets, unwanted=subsets, children=subsets, found=subsets, foreign=subsets, tombstones=subsets)
def test_only_what_is_known_as_removed_by_its_own_cluster_is_destroyed(
    wanted: set[UUID], unwanted: set[UUID], children: set[UUID], found: set[UUID], foreign: set[UUID],
    tombstones: set[UUID],
) -> None:  # fmt: skip
    unwanted = unwanted - wanted
    placements = [placement(key, wanted=key in wanted) for key in sorted(wanted | unwanted)]
    lost = [leftover(key, "cluster-b" if key in foreign else OURS) for key in sorted(found)]
    odd = unknown(placements, children, lost)
    assert odd == (found | children) - wanted - unwanted
    decisions = decide(placements, {key: Child() for key in children}, lost, tombstones & odd, OURS)
    assert {item.id for item in decisions.start} == (wanted | unwanted) - children
    assert {key for key, _, _ in decisions.stop} == children & (unwanted | (tombstones - wanted))
    assert {item.placement_id for item in decisions.destroy} == (odd & found & tombstones) - foreign - children
    assert {item.placement_id for item in decisions.orphans} == (found - children - wanted - unwanted) - {
        item.placement_id for item in decisions.destroy
    }


def test_a_stop_is_told_once_and_again_when_it_becomes_harder() -> None:
    [key, *_] = IDS
    what = placement(key, wanted=False)
    first = decide([what], {key: Child()}, [], [], OURS)
    assert first.stop == ((key, 10.0, False),)
    assert decide([what], {key: Child(told=(10.0, False))}, [], [], OURS).stop == ()
    assert decide([what], {key: Child(told=(10.0, True))}, [], [], OURS).stop == ((key, 10.0, False),)


def test_a_refused_child_is_told_the_state_again() -> None:
    [key, *_] = IDS
    decisions = decide([placement(key, state="preparing")], {key: Child(disowned=True)}, [], [], OURS)
    assert [item.state for item in decisions.resync] == ["preparing"]


def test_what_was_never_started_is_destroyed_by_its_tombstone_alone_and_never_without() -> None:
    [key, *_] = IDS
    found = leftover(key, cluster=None)
    assert decide([], {}, [found], [key], OURS).destroy == (found,)
    assert decide([], {}, [found], [], OURS).orphans == (found,)


def test_prune_keeps_the_newest_consoles(tmp_path: Path) -> None:
    paths = HostPaths(tmp_path, tmp_path / "run")
    for index in range(KEPT + 3):
        directory = paths.placement(uuid.UUID(int=index))
        directory.mkdir(parents=True)
        (directory / "console.log").write_text("x")
        os.utime(directory, (index, index))
    busy = paths.placement(uuid.UUID(int=1))
    (busy / "intent.json").write_text("{}")

    async def drop(placement_id: UUID, name: str) -> None:
        raise AssertionError

    async def taps() -> dict[UUID, str]:
        return {}

    assert trio.run(VmLeftovers(paths, "zeitwork-none", drop, taps).prune) == 2
    left = {path.name for path in paths.placements.iterdir()}
    assert len(left) == KEPT + 1
    assert str(uuid.UUID(int=0)) not in left
    assert busy.name in left
