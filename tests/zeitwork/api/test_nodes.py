from __future__ import annotations

from ipaddress import ip_interface

from actors.model.network import OwnAddress, OwnAddresses
from actors.model.states import NodeDesired, NodeState, PlacementState
from tests.zeitwork.api.conftest import World
from zeitwork.api.deps import fresh_id
from zeitwork.api.nodes import AskedNodeState


async def test_the_host_itself(world: World) -> None:
    (node,) = (await world.client.get("/api/v1/nodes")).json()["items"]
    assert node["id"] == str(world.node.id)
    assert node["hostname"] == "host-a"
    assert node["state"] == "ready"
    assert node["generation"] == 1
    assert node["resources"] == {
        "vcpu": 8,
        "memory": 3584,
        "vcpu_allocated": 0,
        "memory_allocated": 0,
        "vcpu_available": 8,
        "memory_available": 3584,
        "placements": 0,
    }
    assert node["ipv4_pool"]
    assert (await world.client.get(f"/api/v1/nodes/{node['id']}")).json() == node


async def test_an_expected_host_is_booting(world: World) -> None:
    made = await world.client.post("/api/v1/nodes", json={"hostname": "host-b", "ip_address": "2001:db8::7"})
    assert made.status_code == 201, made.text
    node = made.json()
    assert node["state"] == "booting"
    assert node["generation"] == 0
    assert node["ip_address"] == "2001:db8::7"
    assert made.headers["location"] == f"/api/v1/nodes/{node['id']}"
    listed = (await world.client.get("/api/v1/nodes", params={"state": "booting"})).json()["items"]
    assert [one["id"] for one in listed] == [node["id"]]
    gone = await world.client.delete(f"/api/v1/nodes/{node['id']}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert (await world.client.get("/api/v1/nodes", params={"state": "booting"})).json()["items"] == []


BAD_HOSTS: list[tuple[dict[str, object], str]] = [
    ({"ip_address": "10.0.0.1"}, "hostname"),
    ({"hostname": "b"}, "ip_address"),
    ({"hostname": "", "ip_address": "10.0.0.1"}, "hostname"),
    ({"hostname": "a b", "ip_address": "10.0.0.1"}, "hostname"),
    ({"hostname": "b\n", "ip_address": "10.0.0.1"}, "hostname"),
    ({"hostname": "b", "ip_address": "10.0.0"}, "ip_address"),
    ({"hostname": "b", "ip_address": "10.0.0.1/8"}, "ip_address"),
    ({"hostname": "b", "ip_address": "10.0.0.1", "region_id": str(fresh_id())}, "region_id"),
    ({"hostname": "b", "ip_address": "10.0.0.1", "resources": {"vcpu": 4}}, "resources"),
]


async def test_bad_hosts(world: World) -> None:
    for body, field in BAD_HOSTS:
        answer = await world.client.post("/api/v1/nodes", json=body)
        assert answer.status_code == 422, answer.text
        assert answer.json()["field"] == field


async def test_draining_and_back(world: World) -> None:
    path = f"/api/v1/nodes/{world.node.id}/state"
    drained = await world.client.put(path, json={"state": "draining"})
    assert drained.status_code == 202
    assert drained.json()["desired_state"] == "draining"
    assert (await world.client.put(path, json={"state": "ready"})).json()["desired_state"] == "ready"
    for state in ("booting", "down", "terminated", "error", "unknown"):
        refused = await world.client.put(path, json={"state": state})
        assert refused.status_code == 409
        assert refused.json()["fix"] == "ask for one of: ready, cordoned, draining"
    assert (await world.client.put(path, json={"state": "asleep"})).status_code == 422


def test_what_can_be_asked_is_what_there_is() -> None:
    assert {*AskedNodeState} == {*NodeState, *NodeDesired}


async def test_cordoning_and_back(world: World) -> None:
    path = f"/api/v1/nodes/{world.node.id}"
    cordoned = (await world.client.put(f"{path}/state", json={"state": "cordoned"})).json()
    assert (cordoned["state"], cordoned["desired_state"], cordoned["drain"]) == ("ready", "cordoned", None)
    found = (await world.client.get("/api/v1/resources")).json()
    assert (found["nodes"][0]["closed"], found["available"]) == ("cordoned", {"vcpu": 0, "memory": 0})
    made = await world.create()
    assert await world.place() == []
    assert "cordoned" in (await world.client.get(f"/api/v1/instances/{made['id']}")).json()["reason"]
    draining = (await world.client.put(f"{path}/state", json={"state": "draining"})).json()
    assert (draining["state"], draining["desired_state"]) == ("draining", "draining")
    cordoned = (await world.client.put(f"{path}/state", json={"state": "cordoned"})).json()
    assert (cordoned["state"], cordoned["desired_state"]) == ("ready", "cordoned")
    assert (await world.client.put(f"{path}/state", json={"state": "ready"})).json()["desired_state"] == "ready"


async def test_how_far_a_drain_is(world: World) -> None:
    path = f"/api/v1/nodes/{world.node.id}"
    made = [
        await world.create(**changes)
        for changes in ({}, {"node_id": str(world.node.id)}, {"singleton": True}, {"node_id": str(world.node.id)})
    ]
    placements = await world.place()
    assert (await world.client.get(path)).json()["drain"] is None
    drained = (await world.client.put(f"{path}/state", json={"state": "draining"})).json()
    assert drained["drain"] == {"placements": 4, "pinned": 2, "restored": 0, "singletons": 1}
    # What is to stop does not keep anybody from anything.
    await world.client.post(f"/api/v1/instances/{made[3]['id']}/stop")
    (listed,) = (await world.client.get("/api/v1/nodes")).json()["items"]
    assert listed["drain"] == {"placements": 4, "pinned": 1, "restored": 0, "singletons": 1}
    for placement in placements:
        await world.observe(placement, PlacementState.REMOVED)
    found = (await world.client.get(path)).json()
    assert found["drain"] == {"placements": 0, "pinned": 0, "restored": 0, "singletons": 0}
    assert (await world.client.put(f"{path}/state", json={"state": "ready"})).json()["drain"] is None


async def test_taints_are_replaced_as_a_whole(world: World) -> None:
    path = f"/api/v1/nodes/{world.node.id}"
    assert (await world.client.get(path)).json()["taints"] == []
    taints = [{"key": "gpu", "value": ""}, {"key": "team", "value": "red"}]
    answer = await world.client.put(f"{path}/taints", json={"taints": [taints[1], {"key": "gpu"}]})
    assert (answer.status_code, answer.json()["taints"]) == (200, taints)
    assert (await world.client.put(f"{path}/taints", json={"taints": taints})).status_code == 200
    events = (await world.client.get("/api/v1/events", params={"subject": str(world.node.id)})).json()["items"]
    assert [one["data"] for one in events if one["what"] == "node.taints"] == [{"from": [], "to": taints}]
    for bad, field in (
        ({"taints": [{"key": "a b"}]}, "taints[0].key"),
        ({"taints": [{"value": "a"}]}, "taints[0].key"),
        ({"taints": [{"key": "a", "value": "b" * 64}]}, "taints[0].value"),
        ({"taints": [{"key": "a", "effect": "x"}]}, "taints[0].effect"),
        ({"taints": taints * 2}, "taints"),
        ({"taints": "gpu"}, "taints"),
        ({}, "taints"),
    ):
        refused = await world.client.put(f"{path}/taints", json=bad)
        assert (refused.status_code, bool(refused.json()["fix"])) == (422, True), bad
        assert refused.json()["field"].replace("[...]", "[0]").startswith(field.split("[")[0]), (bad, refused.text)
    assert (await world.client.get(path)).json()["taints"] == taints
    assert (await world.client.put(f"{path}/taints", json={"taints": []})).json()["taints"] == []
    assert (await world.client.put(f"/api/v1/nodes/{fresh_id()}/taints", json={"taints": []})).status_code == 404


async def test_what_the_scheduler_knows_of_a_host(world: World) -> None:
    node = (await world.client.get("/api/v1/nodes")).json()["items"][0]
    assert (node["labels"], node["hypervisor"], node["architecture"], node["pressure"]) == ({}, None, "x86_64", 0)
    await world.store.nodes.record_condition(world.node.id, "qemu", 0.07)
    node = (await world.client.get(f"/api/v1/nodes/{node['id']}")).json()
    assert (node["hypervisor"], node["pressure"]) == ("qemu", 0.07)


async def test_a_living_host_is_not_deleted(world: World) -> None:
    answer = await world.client.delete(f"/api/v1/nodes/{world.node.id}")
    assert answer.status_code == 409


async def test_resources_by_node_and_in_total(world: World) -> None:
    await world.create(resources={"vcpu": 2, "memory": 1000})
    await world.place()
    found = (await world.client.get("/api/v1/resources")).json()
    (node,) = found["nodes"]
    assert node["capacity"] == {"vcpu": 8, "memory": 3584}
    assert node["allocated"] == {"vcpu": 2, "memory": 1064}
    assert node["available"] == {"vcpu": 6, "memory": 2520}
    assert node["placements"] == 1
    assert node["machine"]["memory_total"] == 4096
    assert node["machine"]["memory_overhead"] == 64
    assert {key: found[key] for key in ("capacity", "allocated", "available")} == {
        key: node[key] for key in ("capacity", "allocated", "available")
    }


async def test_what_monitors_take_is_shown_beside_what_is_held_for_it(world: World) -> None:
    await world.create(resources={"vcpu": 2, "memory": 1000})
    (placement,) = await world.place()
    await world.store.nodes.record_overhead(world.node.id, {placement: 100 * 1024}, {"firecracker": 100 * 1024})
    found = (await world.client.get("/api/v1/resources")).json()
    (node,) = found["nodes"]
    assert node["overhead"] == {"allocated": 64, "measured": 100, "monitors": 1, "excess": 36}
    assert node["allocated"]["memory"] == 1064
    assert node["available"]["memory"] == found["available"]["memory"] == 3584 - 1064 - 36
    shown = (await world.client.get("/metrics")).text
    for name, mib in (("allocated", 64), ("measured", 100), ("excess", 36), ("charged", 64)):
        (line,) = [line for line in shown.splitlines() if line.startswith(f"zeitwork_overhead_{name}_bytes{{")]
        assert float(line.split()[-1]) == mib << 20


async def test_addresses_in_use_at_rest_and_free(world: World) -> None:
    async def pools() -> dict[int, dict[str, object]]:
        (node,) = (await world.client.get("/api/v1/resources")).json()["nodes"]
        return {pool["family"]: pool for pool in node["addresses"]}

    before = await pools()
    assert set(before) == {4, 6}
    await world.create()
    (placement,) = await world.place()
    for family, pool in (await pools()).items():
        assert (pool["leased"], pool["resting"]) == (1, 0)
        assert pool["available"] == int(str(before[family]["size"])) - 1
    await world.observe(placement, PlacementState.REMOVED)
    for pool in (await pools()).values():
        assert (pool["leased"], pool["resting"]) == (0, 1)


async def test_a_closed_host_has_nothing_available_in_total(world: World) -> None:
    await world.client.put(f"/api/v1/nodes/{world.node.id}/state", json={"state": "draining"})
    found = (await world.client.get("/api/v1/resources")).json()
    assert found["nodes"][0]["state"] == "draining"
    assert found["capacity"] == {"vcpu": 8, "memory": 3584}
    assert found["available"] == {"vcpu": 0, "memory": 0}


async def test_a_host_under_pressure_says_why(world: World) -> None:
    await world.store.nodes.record_closed(world.node.id, "memory pressure: a lot")
    node = (await world.client.get(f"/api/v1/nodes/{world.node.id}")).json()
    assert (node["state"], node["closed"], node["reason"]) == ("ready", True, "memory pressure: a lot")
    assert node["closed_since"]
    found = (await world.client.get("/api/v1/resources")).json()
    assert found["nodes"][0]["closed"] == "memory pressure: a lot"
    assert found["available"] == {"vcpu": 0, "memory": 0}
    made = await world.create()
    assert await world.place() == []
    waiting = (await world.client.get(f"/api/v1/instances/{made['id']}")).json()
    assert waiting["reason"] == "1 host: 1 closed (memory pressure)"
    labels = f'{{hostname="host-a",node_id="{world.node.id}"}}'
    assert f"zeitwork_node_closed{labels} 1.0" in (await world.client.get("/metrics")).text
    await world.store.nodes.record_closed(world.node.id, "")
    node = (await world.client.get(f"/api/v1/nodes/{world.node.id}")).json()
    assert (node["closed"], node["closed_since"], node["reason"]) == (False, None, "")
    assert len(await world.place()) == 1
    assert f"zeitwork_node_closed{labels} 0.0" in (await world.client.get("/metrics")).text


async def test_a_hosts_own_addresses(world: World) -> None:
    main = OwnAddress("eth0", ip_interface("2001:db8::7/64"), primary=True)
    other = OwnAddress("eth1", ip_interface("10.0.0.7/8"))
    await world.store.nodes.record_addresses(world.node.id, OwnAddresses((main, other), main))
    node = (await world.client.get("/api/v1/nodes")).json()["items"][0]
    assert node["ip_address"] == "2001:db8::7"
    assert node["addresses"] == [
        {"interface": "eth0", "address": "2001:db8::7", "prefix_length": 64, "primary": True},
        {"interface": "eth1", "address": "10.0.0.7", "prefix_length": 8, "primary": False},
    ]
