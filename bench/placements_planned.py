"""How many placements a second does the scheduler plan, and does that stay so as hosts grow?

The decision alone, in memory: ordering what is pending, filters, scores and the plan. Seconds are those of the CPU.
Each world has a process of its own, for the memory that it takes: nodes, what is pending, plan and planner together.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

import psutil

from actors.model.records import PendingInstance
from actors.model.resources import Resources
from actors.model.scheduling import ANYWHERE, Requirements, Strategy, Taint
from actors.model.states import ImageStatus, NodeState
from actors.scheduler.plan import Planner
from actors.scheduler.queue import in_turn, merged
from actors.scheduler.store import NodeView, Pending
from bench.question import Answer, Question

DEADLINE = 300.0
PAGE, STEP = 5000, 128
ROUNDS = 3

#: vCPU and MiB; small ones are frequent.
_SHAPES = [(1, 128), (1, 256), (1, 256), (1, 512), (1, 512), (2, 1024), (2, 2048), (4, 4096), (4, 8192), (8, 16384)]
_REQUIREMENTS = [
    *[ANYWHERE] * 4,
    Requirements(region="eu"),
    Requirements(region="us"),
    Requirements(labels=(("disk", "ssd"),)),
    Requirements(hypervisor="firecracker"),
    Requirements(tolerations=(Taint("gpu"),)),
    Requirements(strategy=Strategy.SPREAD),
    Requirements(region="eu", labels=(("disk", "ssd"),), hypervisor="firecracker"),
]


@dataclass(frozen=True, slots=True)
class World:
    """So many hosts, so many instances that wait; ``used`` is how full hosts are before, at most."""

    hosts: int
    instances: int
    used: float = 0.75
    vcpu: int = 256
    memory: int = 512 * 1024


def ask(quick: bool) -> Iterator[Answer]:
    """Measure each; placements per second."""
    share = 20 if quick else 1
    worlds = {
        "zeitwork, 5,000 hosts": World(5000, 8000 // share),
        "zeitwork, 1,000 hosts": World(1000, 8000 // share),
        "zeitwork, 100 hosts": World(100, 8000 // share, used=0.3),
        "zeitwork, 5,000 hosts, 100,000 instances": World(5000, 100_000 // share),
        "zeitwork, 5,000 hosts, nearly full": World(5000, 100_000 // share, used=1.0, vcpu=24, memory=64 * 1024),
    }
    for subject, world in worlds.items():
        best = max((_apart(world) for _ in range(1 if quick else ROUNDS)), key=lambda one: one["rate"])
        yield Answer(subject, best["rate"], _note(world, best))
    rate = _exhaustive(World(5000, 40 if quick else 400))
    yield Answer("every host filtered and scored each time", rate, "5,000 hosts")
    yield Answer(
        "kube-scheduler, published, at most", 810.0, "Kubernetes' CI, 5,000 nodes: 680-810, durable", apart=True
    )
    yield Answer("Nomad, published", 3750.0, "C1M: 1,000,000 containers on 5,000 hosts, durable", apart=True)
    yield Answer("Nomad, published, more hosts", 1500.0, "C2M: 2,000,000 on 6,100 hosts, durable", apart=True)


def _note(world: World, found: dict[str, float]) -> str:
    waiting = world.instances - found["placed"]
    left = f", {waiting:,.0f} fit nowhere" if waiting else ""
    return f"{world.instances:,} waiting{left}; {found['memory']:.0f} MiB, {found['growth']:.0f} of them for this"


def _apart(world: World) -> dict[str, float]:
    values = [str(value) for value in (world.hosts, world.instances, world.used, world.vcpu, world.memory)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.placements_planned", *values],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def make(world: World) -> tuple[list[NodeView], list[Pending]]:
    """Return nodes and pages of what waits; the same each time."""
    chance = random.Random(4)
    nodes = [_node(number, world, chance) for number in range(world.hosts)]
    groups = [UUID(int=10**6 + number) for number in range(max(1, world.instances // 100))]
    images = [UUID(int=2 * 10**6 + number) for number in range(50)]
    holders = {
        image: frozenset(node.id for node in chance.sample(nodes, max(1, world.hosts // chance.choice([3, 20, 100]))))
        for image in images
    }
    instances = [_instance(number, chance, groups, images) for number in range(world.instances)]
    pages = [instances[begin : begin + PAGE] for begin in range(0, len(instances), PAGE)]
    return nodes, [Pending(tuple(page), images=holders) for page in pages]


def _node(number: int, world: World, chance: random.Random) -> NodeView:
    free = 1 - world.used * chance.random()
    return NodeView(
        UUID(int=number + 1),
        f"host-{number}",
        NodeState.READY,
        world.vcpu,
        world.memory,
        int(world.vcpu * free),
        int(world.memory * free),
        memory_overhead=48,
        region=chance.choice(["eu", "us"]),
        labels={"zone": f"z{number % 6}", "disk": chance.choice(["ssd", "hdd"])},
        taints=(Taint("gpu"),) if number % 20 == 0 else (),
        hypervisor=chance.choice(["firecracker", "firecracker", "firecracker", "qemu"]),
        pressure=chance.random() * 0.2,
    )


def _instance(number: int, chance: random.Random, groups: list[UUID], images: list[UUID]) -> PendingInstance:
    vcpu, memory = chance.choice(_SHAPES)
    return PendingInstance(
        UUID(int=10**7 + number),
        1,
        None,
        chance.choice(images),
        ImageStatus.READY,
        None,
        Resources(vcpu, memory),
        priority=chance.choice([10, 50, 50, 50, 80]),
        # As from a store: each has one of its own.
        requirements=replace(chance.choice(_REQUIREMENTS)),
        group_id=chance.choice(groups) if chance.random() < 0.5 else None,
        waiting=chance.random() * 600,
    )


def main() -> None:
    """Plan one world and print how fast that was, and the process' memory in MiB."""
    hosts, instances, used, vcpu, memory = sys.argv[1:]
    process = psutil.Process()
    before = process.memory_info().rss
    nodes, pages = make(World(int(hosts), int(instances), float(used), int(vcpu), int(memory)))
    began = time.process_time()
    planner = Planner(nodes)
    for page in pages:
        planner.learn(page)
    turns = list(merged(in_turn(page.instances) for page in pages))
    plans = [planner.plan(turns[begin : begin + STEP]) for begin in range(0, len(turns), STEP)]
    taken = time.process_time() - began
    peak = process.memory_info().rss
    placed = sum(len(plan.assignments) for plan in plans)
    found = {"rate": placed / taken, "placed": placed, "memory": peak / 2**20, "growth": (peak - before) / 2**20}
    print(json.dumps(found))


def _exhaustive(world: World) -> float:
    """Plan by looking at all hosts each time, as is simplest; return placements per second."""
    nodes, pages = make(world)
    free = {node.id: [node.vcpu_free, node.memory_free - node.memory_overhead] for node in nodes}
    began = time.perf_counter()
    placed = 0
    for instance in pages[0].instances:
        asked, size = instance.requirements, instance.resources
        best, lowest = None, 0.0
        for node in nodes:
            if node.state is not NodeState.READY or node.closed or asked.region not in (None, node.region):
                continue
            if asked.hypervisor not in (None, node.hypervisor):
                continue
            if any(node.labels.get(key) != value for key, value in asked.labels):
                continue
            if not all(asked.tolerates(taint) for taint in node.taints):
                continue
            vcpu, memory = free[node.id]
            if size.vcpu > vcpu or size.memory > memory:
                continue
            score = vcpu / node.vcpu + memory / node.memory
            if best is None or score < lowest:
                best, lowest = node, score
        if best is not None:
            free[best.id][0] -= size.vcpu
            free[best.id][1] -= size.memory + best.memory_overhead
            placed += 1
    return placed / (time.perf_counter() - began)


QUESTION = Question(
    "placements_planned", "placements planned, not written", "placements/s", "higher", ask, target=20_000
)

if __name__ == "__main__":
    main()
