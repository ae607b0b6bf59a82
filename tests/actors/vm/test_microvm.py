"""Firecracker's configuration: against its own API description, against itself, and against the real binary."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.model.errors import InvalidInput
from actors.vm import firecracker
from actors.vm.cgroup import Cgroup
from actors.vm.firecracker import Api
from actors.vm.microvm import (
    Balloon,
    BlockDevice,
    Bucket,
    Cache,
    Call,
    CpuTemplate,
    HugePages,
    IoEngine,
    Metadata,
    MicroVm,
    NetworkCard,
    RateLimit,
    Vsock,
    create_snapshot,
    load_snapshot,
)
from actors.vm.process import spawn
from tests.actors.vm.test_hypervisors import FULL
from tests.actors.vm.waiting import until

LIMIT = RateLimit(Bucket(1 << 20, 100, burst=1 << 16), Bucket(1000, 1000))
EVERYTHING = MicroVm(
    vcpu=2,
    memory=128,
    kernel=Path("/kernel"),
    boot_args="console=ttyS0",
    initrd=Path("/initrd"),
    drives=(
        BlockDevice("root", Path("/root"), True),
        BlockDevice("upper", Path("/upper"), False, Cache.WRITEBACK, IoEngine.ASYNC, LIMIT),
    ),
    cards=(NetworkCard("eth0", "zwtap", "06:00:ac:1f:00:02", receive=LIMIT, transmit=LIMIT),),
    smt=True,
    track_dirty_pages=True,
    huge_pages=HugePages.TWO_MIB,
    cpu_template=CpuTemplate.T2,
    entropy_limit=LIMIT,
    log_level="Warning",
    metrics=Path("/metrics"),
    metadata=Metadata({"zeitwork": {"instance": "i"}}),
    vsock=Vsock(3, Path("/vsock")),
)


def conforms(call: Call, api: dict[str, Any]) -> None:
    template = next(
        (known for known in api["paths"] if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", known), call.path)), None
    )
    assert template is not None, call.path
    operation = api["paths"][template][call.method.lower()]
    if call.method == "GET":
        assert not call.body
        return
    [body] = [item for item in operation["parameters"] if item["in"] == "body"]
    _check(call.body, body["schema"], api, call.path)


def _check(value: Any, schema: dict[str, Any], api: dict[str, Any], where: str) -> None:
    if "$ref" in schema:
        schema = api["definitions"][schema["$ref"].rsplit("/", 1)[1]]
    kinds = {"object": dict, "string": str, "integer": int, "boolean": bool, "array": list}
    if "type" in schema:
        assert isinstance(value, kinds[schema["type"]]), f"{where}: {value!r} is no {schema['type']}"
        assert schema["type"] == "boolean" or not isinstance(value, bool), where
    if "enum" in schema:
        # YAML reads the bare word None as a string, and so does Firecracker.
        assert value in schema["enum"], f"{where}: {value!r}"
    if isinstance(value, int) and not isinstance(value, bool):
        assert schema.get("minimum", value) <= value <= schema.get("maximum", value), where
    if isinstance(value, list):
        for item in value:
            _check(item, schema["items"], api, where)
    if isinstance(value, dict) and "properties" in schema:
        assert set(schema.get("required", ())) <= value.keys(), where
        for name, item in value.items():
            assert name in schema["properties"], f"{where}: unknown {name}"
            _check(item, schema["properties"][name], api, f"{where}.{name}")


#: Descriptions of several versions, the oldest that is supported first.
DESCRIPTIONS = [Path(path) for path in os.environ.get("ZEITWORK_TEST_FIRECRACKER_API", "").split(":") if path]


@pytest.fixture(scope="module", params=DESCRIPTIONS or [None], ids=lambda path: path.stem if path else "none")
def api(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param is None:
        pytest.skip("ZEITWORK_TEST_FIRECRACKER_API is not set")
    content: dict[str, Any] = yaml.safe_load(request.param.read_text())
    return content


def test_every_request_is_one_that_the_api_knows(api: dict[str, Any]) -> None:
    calls = [
        *firecracker.configuration(FULL),
        *EVERYTHING.calls(),
        Balloon(16, statistics=1).call(),
        *firecracker.configuration(replace(FULL, restore=Path("/snapshot"))),
        create_snapshot(Path("state"), Path("memory"), 1.0),
        load_snapshot(Path("state"), Path("memory"), ()),
        firecracker.START,
        firecracker.CTRL_ALT_DEL,
        firecracker.FLUSH,
        firecracker.PAUSE,
        firecracker.RESUME,
        firecracker.INFO,
        firecracker.SIZE,
    ]
    for call in calls:
        conforms(call, api)
    paths = [call.path for call in EVERYTHING.calls()]
    assert set(paths) == {
        "/logger",
        "/metrics",
        "/machine-config",
        "/boot-source",
        "/drives/root",
        "/drives/upper",
        "/network-interfaces/eth0",
        "/mmds/config",
        "/mmds",
        "/vsock",
        "/entropy",
    }
    # The guest sees drives in this order, and the metadata service needs its card.
    assert paths.index("/drives/root") < paths.index("/drives/upper")
    assert paths.index("/network-interfaces/eth0") < paths.index("/mmds/config")


def test_by_default_a_machine_has_what_the_product_needs_and_no_more() -> None:
    calls = {call.path: call.body for call in firecracker.configuration(FULL)}
    assert calls["/mmds"] == {"zeitwork": {"instance": "i"}}
    assert calls["/mmds/config"]["version"] == "V2"
    assert calls["/entropy"] == {}
    assert calls["/metrics"] == {"metrics_path": "/metrics.json"}
    assert calls["/vsock"] == {"guest_cid": 3, "uds_path": "/run/x/agent.sock"}
    assert not {"/balloon", "/cpu-config"} & calls.keys()
    alone = {call.path for call in firecracker.configuration(replace(FULL, nic=None, agent=False))}
    assert not {"/mmds", "/mmds/config", "/vsock"} & alone


def test_a_restored_machine_is_told_only_what_its_snapshot_does_not_hold() -> None:
    calls = firecracker.configuration(replace(FULL, restore=Path("/snapshot")))
    assert [(call.method, call.path) for call in calls] == [
        ("PUT", "/metrics"),
        ("PUT", "/snapshot/load"),
        ("PUT", "/mmds"),
        ("PATCH", "/vm"),
    ]
    load, metadata, go = (call.body for call in calls[1:])
    assert load == {
        "snapshot_path": "/snapshot/vm.state",
        "mem_backend": {"backend_type": "File", "backend_path": "/snapshot/vm.memory"},
        "resume_vm": False,
        "network_overrides": [{"iface_id": "eth0", "host_dev_name": "zwabc"}],
    }
    assert metadata == {"zeitwork": {"instance": "i"}}
    assert go == {"state": "Resumed"}
    alone = firecracker.configuration(replace(FULL, restore=Path("/snapshot"), nic=None))
    assert [call.path for call in alone] == ["/metrics", "/snapshot/load", "/vm"]
    assert "network_overrides" not in alone[1].body


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: replace(EVERYTHING, vcpu=0), "vcpu"),
        (lambda: replace(EVERYTHING, vcpu=33), "vcpu"),
        (lambda: replace(EVERYTHING, vcpu=3), "vcpu"),
        (lambda: replace(EVERYTHING, memory=0), "memory"),
        (lambda: replace(EVERYTHING, memory=129), "memory"),
        (lambda: replace(EVERYTHING, balloon=Balloon(16)), "huge_pages"),
        (lambda: replace(EVERYTHING, huge_pages=HugePages.NONE, balloon=Balloon(129)), "balloon"),
        (lambda: replace(EVERYTHING, drives=EVERYTHING.drives[:1] * 2), "drives"),
        (lambda: replace(EVERYTHING, cards=EVERYTHING.cards * 2), "cards"),
        (lambda: replace(EVERYTHING, cards=()), "metadata"),
        (lambda: Metadata({}, cards=()), "metadata"),
        (lambda: Metadata({}, address=IPv4Address("10.0.0.1")), "metadata"),
        (lambda: Metadata({"a": "x" * 60_000}), "metadata"),
        (lambda: Vsock(2, Path("/v")), "vsock"),
        (lambda: Bucket(0, 1), "rate_limit"),
        (lambda: Bucket(1, 1, burst=-1), "rate_limit"),
        (lambda: Balloon(-1), "balloon"),
    ],
)
def test_what_cannot_be_is_refused_before_there_is_a_process(make: Callable[[], object], where: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        make()
    assert caught.value.field == where


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="zwm-"))
    yield path
    shutil.rmtree(path)
    Cgroup.of(f"zeitwork-t{path.name[-6:]}/machine").remove()


@pytest.mark.parametrize("pages", [False, True])
async def test_the_real_one_takes_all_of_it_and_writes_its_metrics(folder: Path, pages: bool) -> None:
    binary, kernel = (os.environ.get(f"ZEITWORK_TEST_{name}") for name in ("FIRECRACKER", "MINIMAL_GUEST"))
    if not binary or not kernel:
        pytest.skip("ZEITWORK_TEST_FIRECRACKER or ZEITWORK_TEST_MINIMAL_GUEST is not set")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("/dev/kvm is missing or not writable")
    for name in ("root", "upper"):
        (folder / name).write_bytes(bytes(4096))
    (folder / "metrics").touch()
    # No card, since no TAP is made here; no template, since the processor may have none; no huge pages of the host's.
    whole = replace(
        EVERYTHING,
        kernel=Path(kernel),
        initrd=None,
        drives=(
            BlockDevice("root", folder / "root", True),
            # io_uring may be forbidden on the machine that runs this.
            BlockDevice("upper", folder / "upper", False, Cache.WRITEBACK, IoEngine.SYNC, LIMIT),
        ),
        cards=(),
        metadata=None,
        cpu_template=CpuTemplate.NONE,
        huge_pages=HugePages.NONE,
        balloon=None if pages else Balloon(16, statistics=1),
        metrics=folder / "metrics",
        vsock=Vsock(3, folder / "vsock"),
    )
    socket = folder / "api"
    process = spawn((binary, "--api-sock", str(socket)), stdout=folder / "out", stderr=folder / "err")
    try:
        async with await Api.connect(socket, 90) as connection:
            for call in whole.calls():
                await connection.call(call)
            if pages:
                # Configuration is all that is checked of these: no page is taken before the guest starts.
                huge = replace(whole, huge_pages=HugePages.TWO_MIB)
                await connection.call(next(call for call in huge.calls() if call.path == "/machine-config"))
                return
            await connection.call(firecracker.START)
            await until(lambda: b"READY" in (folder / "out").read_bytes())
            await connection.call(Call("PUT", "/actions", {"action_type": "FlushMetrics"}))
        await until(lambda: bool((folder / "metrics").read_bytes()))
        lines = (folder / "metrics").read_text().splitlines()
        assert all("api_server" in json.loads(line) for line in lines)
        assert (folder / "vsock").is_socket()
    finally:
        await process.kill()
        process.close()
