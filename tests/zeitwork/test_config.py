from __future__ import annotations

from pathlib import Path

import pytest

from actors.model.errors import InvalidInput
from zeitwork.config import Config, load


def test_later_sources_win_and_absent_flags_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "zeitwork.toml"
    file.write_text('region = "file"\nhttp = "127.0.0.1:1"\nhypervisor = "qemu"\n[label]\ndisk = "ssd"\n')
    environ = {"ZEITWORK_REGION": "environment", "ZEITWORK_HTTP": "127.0.0.1:2", "ZEITWORK_TEST_KERNEL": "/k"}
    config = load({"http": "127.0.0.1:3", "region": None}, environ, file)
    assert (config.http, config.region, config.hypervisor) == ("127.0.0.1:3", "environment", "qemu")
    assert config.label == {"disk": "ssd"}


@pytest.mark.parametrize(
    ("flags", "field", "words"),
    [
        ({"http": "8080"}, "http", "HOST:PORT"),
        ({"hypervisor": "xen"}, "hypervisor", "auto, firecracker, qemu"),
        ({"vcpu_overcommit": "lots"}, "vcpu_overcommit", "number"),
        ({"memory_pressure": "0"}, "memory_pressure", "percentage from 1 to 100"),
        ({"memory_reserved": "1 elephant"}, "memory_reserved", "not a size"),
        ({"ipv4_pool": "10.0.0.0/24"}, "ipv4_pool", "/16"),
        ({"ipv6_prefix": "fd00::/64"}, "ipv6_prefix", "/48"),
        ({"label": ["broken"]}, "label", "KEY=VALUE"),
        ({"advertise": "192.0.2.1:0"}, "advertise", "ADDRESS:PORT"),
        ({"advertise": "0.0.0.0"}, "advertise", "ADDRESS:PORT"),
        ({"advertise": "::"}, "advertise", "ADDRESS:PORT"),
        ({"advertise": "a b"}, "advertise", "ADDRESS:PORT"),
        ({"peers": ["192.0.2.1:99999"]}, "peers", "ADDRESS:PORT"),
        ({"join": "http://h:1"}, "join", "https://"),
        ({"join": "https://h:1/path"}, "join", "https://"),
        ({"stop_vms": "perhaps"}, "stop_vms", "true or false"),
    ],
)
def test_bad_values_name_the_field_the_source_and_the_form(flags: dict[str, object], field: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load(flags)
    assert caught.value.field == field
    assert f"--{field.replace('_', '-')}" in str(caught.value)
    assert words in str(caught.value)


def test_a_flag_that_may_be_repeated_is_shown_as_it_was_written() -> None:
    with pytest.raises(InvalidInput) as caught:
        load({"label": ("zone=a", "b")})
    assert str(caught.value).startswith("label: --label has 'zone=a' 'b': 'b' is not KEY=VALUE")


def test_addresses_of_hosts_may_leave_the_port_out() -> None:
    given = ["h2", "192.0.2.1", "2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:80", "h2.example:80"]
    assert load({"peers": given}).peers == (
        "h2:7946", "192.0.2.1:7946", "[2001:db8::1]:7946", "[2001:db8::1]:7946", "[2001:db8::1]:80", "h2.example:80",
    )  # fmt: skip
    assert load({"advertise": "2001:db8::1"}).advertise == "[2001:db8::1]:7946"


def test_unknown_settings_and_broken_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "z.toml"
    file.write_text("regoin = 'typo'\n")
    with pytest.raises(InvalidInput, match="regoin.*unknown setting.*region"):
        load(file=file)
    file.write_text("= nonsense")
    with pytest.raises(InvalidInput, match="can't be read"):
        load(file=file)
    with pytest.raises(InvalidInput, match="does not exist"):
        load(file=tmp_path / "absent.toml")


def test_a_second_data_directory_gets_names_of_its_own(tmp_path: Path) -> None:
    assert Config().tag == ""
    assert Config().paths.run == Path("/run/zeitwork")
    other = load({"data_dir": str(tmp_path)})
    assert len(other.tag) == 8
    assert other.paths.run == Path(f"/run/zeitwork-{other.tag}")
    assert other.api_socket == other.paths.run / "zeitwork.sock"
