"""Plans over pretend states: what is there stays, what is missing is named, nothing changes by planning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from actors.model.paths import HostPaths
from zeitwork.setup import facts as looking
from zeitwork.setup import forwarding
from zeitwork.setup.apt import Simulation
from zeitwork.setup.facts import Distribution, Facts
from zeitwork.setup.needs import NEEDS
from zeitwork.setup.options import SetupOptions
from zeitwork.setup.plan import NotRoot, WrongMachine, describe, plan, require_root
from zeitwork.setup.step import (
    FetchFirecracker,
    InstallPackages,
    InstallUnit,
    MakeDirectories,
    SetSysctls,
    UnpackBusybox,
)
from zeitwork.setup.unit import unit_text

OPTIONS = SetupOptions(paths=HostPaths(data=Path("/var/lib/zeitwork"), run=Path("/run/zeitwork")))
DEBIAN = Distribution("Debian GNU/Linux 12 (bookworm)", frozenset({"debian"}))
FORWARDING = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}

BARE = Facts(
    uid=0,
    machine="x86_64",
    distribution=DEBIAN,
    commands={},
    static_busybox=None,
    dynamic_busybox=False,
    lists_age=None,
    users=frozenset({"root"}),
    groups=frozenset({"root"}),
    directories={},
    kernel=None,
    hello=False,
    kvm=True,
    firecracker=None,
    tun=False,
    sysctls=dict.fromkeys(FORWARDING, "0"),
)
COMPLETE = replace(
    BARE,
    commands={need.command: Path("/usr/bin") / need.command for need in NEEDS},
    static_busybox=Path("/bin/busybox"),
    users=frozenset({"root", "zeitwork-postgres"}),
    groups=frozenset({"root", "zeitwork"}),
    directories=dict(looking.directories(OPTIONS)),
    kernel="6.1.0-56-cloud-amd64",
    hello=True,
    firecracker="/var/lib/zeitwork/bin/firecracker",
    tun=True,
    sysctls=FORWARDING,
    sysctl_file=forwarding.render(tuple(FORWARDING.items())),
    jailer="/var/lib/zeitwork/bin/jailer",
)


def names(facts: Facts, options: SetupOptions = OPTIONS) -> list[str]:
    return [step.name for step in plan(facts, options)]


def test_a_bare_machine_gets_everything_in_an_order_that_works() -> None:
    found = names(BARE)
    assert found == [
        "directories", "packages", "group", "user", "kernel", "hello", "firecracker", "jailer", "tun", "forwarding",
    ]  # fmt: skip


def test_a_complete_machine_gets_nothing() -> None:
    assert plan(COMPLETE, OPTIONS) == ()


@pytest.mark.parametrize("step", plan(BARE, OPTIONS), ids=lambda step: step.name)
def test_every_step_says_what_is_there_what_changes_how_and_what_undoes_it(step) -> None:
    assert all((step.present, step.change, step.command, step.undo))
    assert step.change in describe([step])


def test_only_missing_packages_are_installed() -> None:
    commands = {name: path for name, path in COMPLETE.commands.items() if name != "nft"}
    (step,) = plan(replace(COMPLETE, commands=commands), OPTIONS)
    assert step.action == InstallPackages(("nftables",))
    assert "--no-install-recommends nftables" in step.command


def test_lists_are_fetched_first_when_they_are_old() -> None:
    for age, wanted in ((None, True), (3600.0, False), (10 * 86400.0, True)):
        packages = next(step for step in plan(replace(BARE, lists_age=age), OPTIONS) if step.name == "packages")
        assert packages.command.startswith("apt-get update") is wanted


def test_a_package_that_would_remove_another_is_refused() -> None:
    facts = replace(BARE, simulation=Simulation(new=("nftables",), upgraded=(), removed=("iptables",)))
    with pytest.raises(WrongMachine, match="remove iptables"):
        plan(facts, OPTIONS)


def test_what_comes_along_is_named() -> None:
    facts = replace(BARE, simulation=Simulation(new=("nftables", "libnftables1"), upgraded=(), removed=()))
    assert "libnftables1" in describe(plan(facts, OPTIONS))


def test_the_machines_own_busybox_is_not_replaced() -> None:
    facts = replace(COMPLETE, static_busybox=None, dynamic_busybox=True, hello=False)
    steps = plan(facts, OPTIONS)
    assert isinstance(steps[0].action, UnpackBusybox)
    assert not any(isinstance(step.action, InstallPackages) for step in steps)


def test_another_linux_is_told_what_to_install_by_hand() -> None:
    fedora = Distribution("Fedora Linux 41", frozenset({"fedora"}))
    with pytest.raises(WrongMachine) as caught:
        plan(replace(BARE, distribution=fedora), OPTIONS)
    assert "Fedora Linux 41" in caught.value.detail
    assert "tar2sqfs" in (caught.value.fix or "")
    # With its own programs and kernel it is as good as Debian.
    assert plan(replace(COMPLETE, distribution=fedora), OPTIONS) == ()


def test_a_relative_of_debian_is_debian() -> None:
    assert plan(replace(BARE, distribution=Distribution("Ubuntu", frozenset({"ubuntu", "debian"}))), OPTIONS)


def test_firecracker_only_where_kvm_is_and_never_a_must() -> None:
    assert "firecracker" not in names(replace(BARE, kvm=False))
    steps = [step for step in plan(BARE, OPTIONS) if isinstance(step.action, FetchFirecracker)]
    assert [step.action.target.name for step in steps] == ["firecracker", "jailer"]
    assert all(step.optional for step in steps)
    assert not any(step.optional for step in plan(BARE, OPTIONS) if step.name not in ("firecracker", "jailer"))
    # A Firecracker of the owner's has a jailer of the owner's, or none: ours is of another version.
    assert names(replace(COMPLETE, firecracker="/usr/bin/firecracker", jailer=None)) == []


def test_a_kernel_of_the_owner_needs_none_of_ours() -> None:
    options = replace(OPTIONS, kernel=Path("/boot/vmlinux"), initrd=Path("/boot/initrd"))
    assert names(replace(COMPLETE, kernel=None), options) == []


def test_a_database_of_the_owner_needs_no_user() -> None:
    assert names(replace(COMPLETE, users=frozenset({"root"})), replace(OPTIONS, embedded=False)) == []


def test_secrets_are_closed_and_chosen_modes_stay() -> None:
    data, placements = OPTIONS.paths.data, OPTIONS.paths.placements
    opened = {**COMPLETE.directories, data: 0o750, placements: 0o755}
    (step,) = plan(replace(COMPLETE, directories=opened), OPTIONS)
    assert step.action == MakeDirectories(((placements, 0o700),))


def test_shared_assets_leave_the_data_alone() -> None:
    shared = replace(OPTIONS, paths=HostPaths(Path("/tmp/demo"), Path("/run/demo"), assets=Path("/var/lib/zeitwork")))
    (step,) = [step for step in plan(BARE, shared) if isinstance(step.action, MakeDirectories)]
    assert all(str(path).startswith("/var/lib/zeitwork") for path, _ in step.action.wanted)
    assert shared.manifest == Path("/var/lib/zeitwork/setup.json")


def test_router_advertisements_are_accepted_before_forwarding_starts() -> None:
    facts = replace(COMPLETE, sysctls={**FORWARDING, "net/ipv6/conf/eth0/accept_ra": "1"}, sysctl_file=None)
    (step,) = plan(facts, OPTIONS)
    assert isinstance(step.action, SetSysctls)
    assert step.action.values[0] == ("net/ipv6/conf/eth0/accept_ra", "2")
    # Once that is done the plan is empty, also when the interface is gone.
    written = forwarding.render(step.action.values)
    accepting = {**FORWARDING, "net/ipv6/conf/eth0/accept_ra": "2"}
    assert plan(replace(facts, sysctls=accepting, sysctl_file=written), OPTIONS) == ()
    assert plan(replace(facts, sysctls=FORWARDING, sysctl_file=written), OPTIONS) == ()


def test_without_ipv6_only_ipv4_is_forwarded() -> None:
    facts = replace(COMPLETE, sysctls={"net/ipv4/ip_forward": "0"}, sysctl_file=None)
    (step,) = plan(facts, OPTIONS)
    assert isinstance(step.action, SetSysctls)
    assert step.action.values == (("net/ipv4/ip_forward", "1"),)


def test_the_service_only_when_asked_and_only_under_systemd() -> None:
    asked = replace(OPTIONS, systemd=True)
    with pytest.raises(WrongMachine) as caught:
        plan(COMPLETE, asked)
    assert caught.value.field == "systemd"
    with_systemd = replace(COMPLETE, systemd=True)
    (step,) = plan(with_systemd, asked)
    assert isinstance(step.action, InstallUnit)
    assert plan(replace(with_systemd, unit=unit_text(asked), unit_enabled=True), asked) == ()
    assert names(replace(with_systemd, unit="another version", unit_enabled=True), asked) == ["service"]


def test_other_processors_are_refused() -> None:
    with pytest.raises(WrongMachine, match="aarch64"):
        plan(replace(BARE, machine="aarch64"), OPTIONS)


def test_without_root_the_sudo_line_is_named() -> None:
    with pytest.raises(NotRoot) as caught:
        require_root(1000, "setup --systemd")
    assert caught.value.fix == "sudo zeitwork setup --systemd"
    require_root(0, "setup")


def test_interfaces_with_an_advertised_default_route_are_found() -> None:
    zero = "0" * 32
    routes = (
        f"{zero} 00 {zero} 00 fe80000000000000 00000400 00000001 00000000 00450003     eth0\n"
        f"{zero} 00 {zero} 00 fe80000000000001 00000400 00000001 00000000 00000003     eth1\n"
        f"{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n"
        f"fe800000000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001     eth0\n"
    )
    assert forwarding.parse_advertised(routes) == ("eth0",)
