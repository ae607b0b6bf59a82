"""The init's C readers (config drive, users), run here under the sanitizers instead of in a guest."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.vm.config_drive import GuestConfig, encode
from tests.actors.vm.test_config_drive import PLAIN, configs

GUEST = Path(__file__).parents[3] / "zeitwork" / "guest"
HERE = Path(__file__).parent
SLOW = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


def compile_reader(target: Path, *options: str) -> Path:
    sources = [str(HERE / "reader.c"), *(str(GUEST / name) for name in ("basics.c", "config.c", "user.c"))]
    warnings = ["-Wall", "-Wextra", "-Werror"]
    command = ["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-g", "-O1", *warnings, f"-I{GUEST}", *options, "-o", str(target)]
    subprocess.run([*command, *sources], check=True, timeout=120)
    return target


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("reader") / "reader"
    return compile_reader(target, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.fixture
def read(reader: Path, tmp_path: Path) -> Callable[[bytes], tuple[int, list[str]]]:
    def run(drive: bytes) -> tuple[int, list[str]]:
        path = tmp_path / "drive"
        path.write_bytes(drive)
        environment = {"ASAN_OPTIONS": "detect_leaks=0:exitcode=99"}
        result = subprocess.run([reader, path], capture_output=True, timeout=30, env=environment, check=False)
        assert result.stderr == b"", result.stderr.decode(errors="replace")
        assert result.returncode in (0, 1)
        return result.returncode, result.stdout.decode(errors="replace").split("\0")

    return run


def raw(
    payload: bytes, *, length: int | None = None, checksum: int | None = None, magic: bytes = b"ZWCONF1\n"
) -> bytes:
    size = len(payload) if length is None else length
    return magic + struct.pack("<II", size, zlib.crc32(payload) if checksum is None else checksum) + payload


@SLOW
@given(config=configs)
def test_the_guest_reads_what_the_host_wrote(
    read: Callable[[bytes], tuple[int, list[str]]], config: GuestConfig
) -> None:
    status, fields = read(encode(config))
    assert status == 0
    assert [field[4:] for field in fields if field.startswith("arg=")] == list(config.argv)
    assert [field[4:] for field in fields if field.startswith("env=")] == [f"{k}={v}" for k, v in config.env.items()]
    assert [field[4:] for field in fields if field.startswith("dns=")] == list(config.dns)
    assert f"nonce={config.nonce}" in fields
    assert f"user={config.user}" in fields
    assert f"cwd={config.cwd}" in fields
    assert f"mac={config.mac}" in fields
    assert f"v4={config.v4}/32" in fields
    assert (f"v6={config.v6}/128" in fields) == (config.v6 is not None)
    assert f"stop_signal={config.stop_signal}" in fields
    assert f"stop_timeout_ms={round(float(f'{config.stop_timeout:.3f}') * 1000)}" in fields
    assert f"epoch_ms={round(float(f'{config.epoch:.3f}') * 1000)}" in fields


@SLOW
@given(payload=st.binary(max_size=300), length=st.none() | st.integers(0, 2**32 - 1))
def test_hostile_payloads_end_in_an_error_or_a_configuration(
    read: Callable[[bytes], tuple[int, list[str]]], payload: bytes, length: int | None
) -> None:
    status, fields = read(raw(payload, length=length))
    if status == 1:
        assert fields[:2] == ["error", "config"]


@SLOW
@given(position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_any_changed_byte_is_noticed(read: Callable[[bytes], tuple[int, list[str]]], position: int, flip: int) -> None:
    drive = bytearray(encode(PLAIN))
    length = 16 + struct.unpack_from("<I", drive, 8)[0]
    drive[position % length] ^= flip
    status, fields = read(bytes(drive))
    assert (status, fields[:2]) == (1, ["error", "config"])


@pytest.mark.parametrize(
    ("drive", "message"),
    [
        (b"", "cut short"),
        (b"ZWCONF1\n", "cut short"),
        (bytes(512), "not a config drive of version 1"),
        (raw(b"nonce=a\0arg=x\0", magic=b"ZWCONF2\n"), "not a config drive of version 1"),
        (raw(b""), "it may have 1 to"),
        (raw(b"x", length=2**20 + 1), "it may have 1 to"),
        (raw(b"nonce=a\0arg=x\0", length=100), "cut short"),
        (raw(b"nonce=a\0arg=x\0", checksum=1), "checksum does not match"),
        (raw(b"nonce=a\0arg=x"), "not ended"),
        (raw(b"arg=x\0"), "no nonce"),
        (raw(b"nonce=a b\0arg=x\0"), "nonce"),
        (raw(b"nonce=a\0"), "no command"),
        (raw(b"nonce=a\0arg=\0"), "no command"),
        (raw(b"nonce=a\0arg=x\0env==v\0"), "no name"),
        (raw(b"nonce=a\0arg=x\0stop_signal=0\0"), "not a signal"),
        (raw(b"nonce=a\0arg=x\0stop_signal=15x\0"), "not a signal"),
        (raw(b"nonce=a\0arg=x\0stop_timeout=-1\0"), "not a number"),
        (raw(b"nonce=a\0arg=x\0stop_timeout=1e3\0"), "not a number"),
        (raw(b"nonce=a\0arg=x\0epoch=" + b"9" * 40 + b"\0"), "not a number"),
    ],
)
def test_damage_is_named(read: Callable[[bytes], tuple[int, list[str]]], drive: bytes, message: str) -> None:
    status, fields = read(drive)
    assert status == 1
    assert message in fields[2]


def test_names_from_newer_hosts_are_ignored(read: Callable[[bytes], tuple[int, list[str]]]) -> None:
    status, fields = read(raw(b"nonce=a\0colour=blue\0argument=y\0noequals\0\0arg=x\0"))
    assert status == 0
    assert [field for field in fields if field.startswith("arg=")] == ["arg=x"]


PASSWD = """\
root:x:0:0:root:/root:/bin/sh
# a comment

broken:x:notanumber:1::/x:/bin/sh
app:x:1000:100:App:/home/app:/bin/sh
nohome:x:1001:1001:::
short:x:1
4242:x:77:77::/numeric:/bin/sh
"""
GROUP = """\
root:x:0:root
users:x:100:
docker:x:999:someone,app
wheel:x:10:app,root
empty:x:11:
bad:x:zz:app
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("image")
    compile_reader(root / "reader", "-static")
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text(GROUP)
    return root


def resolve(image: Path, user: str) -> str:
    result = subprocess.run(["chroot", image, "/reader", "--user", user], capture_output=True, timeout=30, check=False)
    return result.stdout.decode()


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", "0:0 /root 0 10"),
        ("root", "0:0 /root 0 10"),
        ("0", "0:0 /root 0 10"),
        ("app", "1000:100 /home/app 100 999 10"),
        ("1000", "1000:100 /home/app 100 999 10"),
        ("app:docker", "1000:999 /home/app 999"),
        ("app:7", "1000:7 /home/app 7"),
        ("5:6", "5:6 / 6"),
        ("5", "5:0 / 0"),
        ("app:", "1000:100 /home/app 100 999 10"),
        (":docker", "0:999 /root 999"),
        ("nohome", "1001:1001 / 1001"),
        ("4242", "4242:0 / 0"),  # a number is a uid, even where an account has that name
    ],
)
def test_users_resolve_as_docker_does(image: Path, user: str, expected: str) -> None:
    assert resolve(image, user) == expected


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("nobody", 'no user "nobody"'),
        ("broken", 'no user "broken"'),
        ("app:nogroup", 'no group "nogroup"'),
        ("99999999999", 'no user "99999999999"'),
        ("x" * 300, "too long"),
    ],
)
def test_unknown_users_are_named(image: Path, user: str, message: str) -> None:
    kind, stage, text = resolve(image, user).split("\0")
    assert (kind, stage) == ("error", "user")
    assert message in text


def test_an_image_without_account_files_runs_by_number(image: Path, tmp_path: Path) -> None:
    shutil.copy(image / "reader", tmp_path / "reader")
    assert resolve(tmp_path, "") == "0:0 / 0"
    assert resolve(tmp_path, "12:34") == "12:34 / 34"


def test_an_account_file_that_is_none_is_not_read(image: Path, tmp_path: Path) -> None:
    shutil.copy(image / "reader", tmp_path / "reader")
    (tmp_path / "etc").mkdir()
    subprocess.run(["mkfifo", tmp_path / "etc/passwd"], check=True, timeout=10)
    assert resolve(tmp_path, "12") == "12:0 / 0"
