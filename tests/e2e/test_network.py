"""Three hosts on a network, each as on a machine of its own, with real machines; Postgres is a fourth.

What breaks is real as well: processes are killed and stopped, the switch loses frames. Meanwhile all hosts are asked
all the time, and no answer may put an instance behind two addresses.
"""

from __future__ import annotations

import secrets
import shlex
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e import postgres
from tests.e2e.networks import network
from tests.e2e.remote import RemoteHost, resume
from tests.e2e.world import World, directories, placements, populate, started, where

NAMES = ("alpha", "beta", "gamma")
QEMU = ("--hypervisor", "qemu")
#: Seconds that a host is suspended.
SUSPENDED = 60.0
#: Seconds that the database is away: longer than a lease, a silence that makes a host dead, and TCP's patience.
AWAY = 20.0


@pytest.fixture(scope="module")
def world(assets: Path) -> Iterator[World]:
    """Three hosts on a network with a Postgres that they share, linked, with an instance on each."""
    if not Path("/proc/sys/net/ipv6").exists():
        pytest.skip("this machine has no IPv6")
    with ExitStack() as stack:
        wires = stack.enter_context(network(*NAMES, "db"))
        *roots, database = stack.enter_context(directories(*NAMES, "db"))
        password = secrets.token_hex(8)
        stack.enter_context(postgres.serving(wires.within("db"), database, password))
        url = postgres.dsn(wires.v4("db"), password)
        hosts = []
        for name, root in zip(NAMES, roots, strict=True):
            # Both families carry links.
            advertised = f"[{wires.v6(name)}]" if name == "beta" else wires.v4(name)
            arguments = [*QEMU, "--database-url", url, "--advertise", advertised]
            hosts.append(RemoteHost(root / "data", assets, arguments, network=wires, name=name))
        stack.enter_context(started(hosts))
        world = World(wires, hosts)
        populate(world, assets, len(hosts))
        yield world


def test_a_leader_that_is_killed_loses_no_command_and_doubles_none(world: World) -> None:
    body = {"image_id": world.image, "default_port": 8080, "resources": {"vcpu": 1, "memory": 128}}
    answer = world.hosts[0].request("POST", "/api/v1/instances", body | {"name": "early"})
    assert answer.status == 201, answer
    early = answer.body["id"]
    before = world.whole()
    assert len({item["node_id"] for item in before.values()}) == len(world.hosts)
    lost, epoch = world.leader()
    one, two = world.others(lost)
    with world.observed():
        machines = lost.machines()
        lost.kill()
        # Nobody leads now. What is asked for meanwhile waits.
        made = one.request("POST", "/api/v1/instances", body | {"name": "late"})
        assert made.status == 201, made
        gone = two.request("DELETE", f"/api/v1/instances/{early}?confirm=true")
        assert gone.status == 202, gone

        def followed() -> bool:
            found = [host.get("/health")["leader"] for host in (one, two)]
            return found[0] == found[1] and found[0] is not None and found[0]["epoch"] > epoch

        world.until(followed, "a new leader")
        # Its machines did not notice, wherever they are asked from.
        assert lost.machines() == machines
        world.answer({n: item for n, item in before.items() if world.host(item["node_id"]) is lost and n != "early"})
        lost.start()
        after = world.whole()
    assert set(after) == (set(before) | {"late"}) - {"early"}

    def done(host: RemoteHost) -> bool:
        # A host tells of an end a moment after its machine and network device are gone.
        tries = host.get(f"/api/v1/instances/{made.body['id']}/placements")["items"]
        there = [one["id"] for one in tries if one["state"] != "removed"]
        ended = host.get(f"/api/v1/instances/{early}")["state"] == "terminated"
        return ended and there == [after["late"]["placement_id"]]

    for host in world.hosts:
        world.until(lambda host=host: done(host), f"the end of what is not wanted, on {host.name}")  # type: ignore[misc]


def test_a_host_that_is_cut_off_is_replaced_and_lets_go_when_it_is_back(world: World) -> None:
    before = world.whole()
    leader, _ = world.leader()
    cut = next(host for item in before.values() if (host := world.host(item["node_id"])) is not leader)
    survivors = world.others(cut)
    lost = {name: item for name, item in before.items() if world.host(item["node_id"]) is cut}
    with world.observed():
        machines = cut.machines()
        world.network.cut_off(cut.name)
        try:
            world.until(lambda: {world.states(host)[cut.name] for host in survivors} == {"down"}, "its detection")
            moved = world.settled(survivors)
            assert {name for name in before if before[name] != moved[name]} == set(lost)
            for name in lost:
                assert moved[name]["ipv4"] != before[name]["ipv4"]
                assert moved[name]["ipv6"] != before[name]["ipv6"]
            # What any survivor says is where it is, for any survivor.
            world.answer(moved, survivors)
            # Nothing stops on the host itself; it says that it can't take anything.
            assert cut.machines() == machines
            for item in lost.values():
                assert cut.reaches(f"http://{item['ipv4']}:8080/", 30)
            body = {"image_id": world.image, "default_port": 8080, "resources": {"vcpu": 1, "memory": 128}}
            refused = cut.request("POST", "/api/v1/instances", body, timeout=60)
            assert refused.status == 503, refused
            assert int(refused.headers["retry-after"]) > 0
            assert cut.alive
        finally:
            world.network.heal()
        after = world.whole()
    assert placements(after) == placements(moved)
    assert cut.machines() == []


def test_a_host_that_is_suspended_lets_go_when_it_wakes(world: World) -> None:
    before = world.whole()
    # The leader, if it has something: what it was about to write is refused, and what it has is another's.
    carriers = [world.host(item["node_id"]) for item in before.values()]
    leader, epoch = world.leader()
    asleep = leader if leader in carriers else carriers[0]
    survivors = world.others(asleep)
    lost = {name for name, item in before.items() if world.host(item["node_id"]) is asleep}
    with world.observed():
        begun = time.monotonic()
        stopped = asleep.suspend()
        try:
            world.until(lambda: {world.states(host)[asleep.name] for host in survivors} == {"down"}, "its detection")
            moved = world.settled(survivors)
            assert {name for name in before if before[name] != moved[name]} == lost
            world.answer(moved, survivors)
            # Those that are left do not even see each other for a while; the database sees both.
            world.network.cut_off(survivors[0].name, [survivors[1].name])
            time.sleep(12)
            assert world.settled(survivors) == moved
            world.network.heal()
            time.sleep(max(0.0, SUSPENDED - (time.monotonic() - begun)))
        finally:
            world.network.heal()
            resume(stopped)
        after = world.whole()
        assert placements(after) == placements(moved)
    if asleep is leader:
        assert world.leader()[1] > epoch


def test_a_network_that_breaks_in_part_leaves_one_address_to_each(world: World) -> None:
    before = world.whole()
    leader, _ = world.leader()
    carriers = [host for item in before.values() if (host := world.host(item["node_id"])) is not leader]
    with world.observed():
        # Two hosts that do not see each other live all the same: everybody else sees them.
        one, two = world.others(leader)
        world.network.cut((one.name, two.name), (two.name, one.name))
        time.sleep(12)
        assert world.settled() == before
        world.network.heal()

        # One that speaks but does not hear is nobody to rely on.
        deaf = carriers[0]
        world.network.cut(*((other, deaf.name) for other in world.network.names if other != deaf.name))
        try:
            others = world.others(deaf)
            world.until(lambda: {world.states(host)[deaf.name] for host in others} == {"down"}, "its detection")
            for item in before.values():
                if world.host(item["node_id"]) is deaf:
                    assert deaf.reaches(f"http://{item['ipv4']}:8080/", 30)
        finally:
            world.network.heal()
        after = world.whole()
    assert set(after) == set(before)


def test_a_database_that_is_away_stops_nothing(world: World) -> None:
    before = world.whole()
    machines = {host.name: host.machines() for host in world.hosts}
    _, epoch = world.leader()
    with world.observed() as observer:
        # Frames are lost, nobody is told: whoever waits for an answer finds out by himself.
        world.network.cut_off("db")
        try:
            time.sleep(AWAY)
            good = observer.answers["200"]
            for host in world.hosts:
                refused = host.request("DELETE", f"/api/v1/instances/{before['web-0']['id']}?confirm=true", timeout=60)
                assert refused.status == 503, refused
                assert int(refused.headers["retry-after"]) > 0
            # Nobody knows what is true now, and nobody says anything else.
            assert observer.answers["200"] == good
            world.answer(before)
        finally:
            world.network.heal()
        assert world.whole() == before
    assert {host.name: host.machines() for host in world.hosts} == machines
    assert world.leader()[1] > epoch


def test_the_host_with_the_database_is_killed_and_comes_back(assets: Path) -> None:
    with ExitStack() as stack:
        wires = stack.enter_context(network("first", "second"))
        roots = stack.enter_context(directories("first", "second"))
        first = RemoteHost(
            roots[0] / "data", assets, [*QEMU, "--advertise", wires.v4("first")], network=wires, name="first"
        )
        second = RemoteHost(roots[1] / "data", assets, [*QEMU], network=wires, name="second")
        world = World(wires, [first, second])
        stack.enter_context(started([first]))
        printed = first.cli("token", "create").stdout.strip()
        second.arguments += shlex.split(printed)[2:]
        stack.enter_context(started([second]))
        populate(world, assets, 2)
        before = world.whole()
        with world.observed():
            machines = {host.name: host.machines() for host in world.hosts}
            first.kill()
            # Reads and writes say that they can't be done, and when to try again; machines run on.
            for method, path, body in (
                ("GET", "/api/v1/instances", None),
                ("POST", "/api/v1/instances", {"image_id": world.image, "default_port": 8080, "resources": {}}),
                ("DELETE", f"/api/v1/instances/{before['web-0']['id']}?confirm=true", None),
            ):
                answer = second.request(method, path, body, timeout=60)
                assert answer.status == 503, answer
                assert int(answer.headers["retry-after"]) > 0
            world.answer(before)
            time.sleep(5)
            world.answer(before)
            assert second.alive
            first.start()
            after = world.whole()
            assert placements(after) == placements(before)
            assert {host.name: host.machines() for host in world.hosts} == machines
            # What is written is done again.
            [group] = second.get("/api/v1/groups")["items"]
            scaled = second.request("PUT", f"/api/v1/groups/{group['id']}/replicas", {"replicas": 1})
            assert scaled.status == 202, scaled
            world.until(lambda: len(where(first)) == 1, "one less")
            world.whole()
