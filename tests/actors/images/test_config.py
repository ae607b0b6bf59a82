from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.images.config import parse_config
from actors.images.problems import ImageRefused
from actors.model.image import ImageConfig


def parsed(**run: object) -> ImageConfig:
    return parse_config(document(run)).config


def document(run: object, **more: object) -> bytes:
    whole = {"os": "linux", "architecture": "amd64", "config": run, "rootfs": {"diff_ids": []}, **more}
    return json.dumps(whole).encode()


def test_reads_what_docker_writes() -> None:
    config = parsed(
        Entrypoint=["/entry", "a b"],
        Cmd=["serve"],
        Env=["PATH=/bin", "EMPTY=", "X=a=b", "NOTHING", "=bad"],
        WorkingDir="/app",
        User="1000:1000",
        ExposedPorts={"8080/tcp": {}, "80": {}, "53/udp": {}, "9000-9002/tcp": {}, "nonsense": {}, "70000/tcp": {}},
        StopSignal="SIGQUIT",
        Labels={"a": "b", "n": 7},
    )
    assert config == ImageConfig(
        entrypoint=("/entry", "a b"),
        cmd=("serve",),
        env=("PATH=/bin", "EMPTY=", "X=a=b"),
        working_dir="/app",
        user="1000:1000",
        exposed_ports=(80, 8080, 9000, 9001, 9002),
        stop_signal="SIGQUIT",
        labels={"a": "b"},
    )


def test_an_image_without_a_command_can_be_added() -> None:
    assert parsed().argv == ()
    assert parse_config(document(None)).config == ImageConfig()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "SIGTERM"), ("SIGINT", "SIGINT"), ("int", "SIGINT"), ("9", "SIGKILL"), ("SIGRTMIN+3", "SIGRTMIN+3"),
        ("37", "SIGRTMIN+3"), ("SIGNONSENSE", "SIGTERM"), ("0", "SIGTERM"), ("99999", "SIGTERM"), ("²", "SIGTERM"),
    ],
)  # fmt: skip
def test_stop_signals(text: str, expected: str) -> None:
    assert parsed(StopSignal=text).stop_signal == expected


def test_relative_and_missing_working_directories() -> None:
    assert parsed(WorkingDir="").working_dir == "/"
    assert parsed(WorkingDir="app").working_dir == "/app"


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"7", b"{}", b"[" * 100_000,
        document({}, architecture="arm64"),
        document({}, os="windows"),
        document({}, rootfs={"diff_ids": ["sha256:short"]}),
        document({}, rootfs={"diff_ids": ["sha256:" + "0" * 64] * 513}),
        document({}, rootfs=None),
        document([1]),
        document({"Cmd": [1]}),
        document({"Cmd": ["a\0b"]}),
        document({"Cmd": ["\ud800"]}),
        document({"Env": "A=b"}),
        document({"Env": ["A=" + "x" * 2_000_000]}),
        document({"User": "a\nb"}),
        document({"User": ["root"]}),
        document({"WorkingDir": "/" + "x" * 5000}),
    ],
)  # fmt: skip
def test_refuses_what_can_not_be_run(data: bytes) -> None:
    with pytest.raises(ImageRefused) as caught:
        parse_config(data)
    assert caught.value.fix


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["Entrypoint", "Cmd", "Env", "WorkingDir", "User", "ExposedPorts", "StopSignal", "Labels"]),
        JSON,
    )
)
def test_any_configuration_is_read_or_refused(run: dict[str, object]) -> None:
    try:
        config = parse_config(document(run)).config
    except ImageRefused:
        return
    assert config.working_dir.startswith("/")
    assert all(0 < port < 65536 for port in config.exposed_ports)
    assert all("=" in item for item in config.env)
