"""Other firewalls on this machine that would stop what VMs send and get."""

from __future__ import annotations

import os

from actors.tap.firewalls import Closed, closed_in_iptables, closed_in_nftables
from zeitwork.doctor.check import Check, Patient, ok, warn

_DEADLINE = 3.0


def firewall(patient: Patient) -> list[Check]:
    """Docker, ufw and firewalld drop forwarded packets. The host itself still reaches its VMs; others may not."""
    found: list[Closed] = []
    looked = False
    if patient.tools.which("nft") is not None:
        ran = patient.tools.run(["nft", "-j", "list", "ruleset"], timeout=_DEADLINE)
        if ran.ok:
            looked = True
            try:
                # Newer versions put warnings about iptables' tables around the listing, which is one line.
                found += closed_in_nftables("".join(line for line in ran.output.splitlines() if line[:1] == "{"))
            except ValueError as error:
                return warn("firewall", f"what nft lists can't be read: {error}")
    # Rules of the old kind are nowhere in nft's list. Where they are not in use, asking would load their module.
    for command, family, names in (
        ("iptables-legacy-save", "ip", "ip_tables_names"),
        ("ip6tables-legacy-save", "ip6", "ip6_tables_names"),
    ):
        if _in_use(patient, names) and patient.tools.which(command) is not None:
            ran = patient.tools.run([command, "-t", "filter"], timeout=_DEADLINE)
            if ran.ok:
                found += closed_in_iptables(ran.output, family)
    if not looked and not found:
        if os.geteuid() != 0:
            return ok("firewall", "only root may look at it")
        return warn("firewall", "can't be looked at: nft does not list the rules", "zeitwork setup")
    if not found:
        return ok("firewall", "nothing stops what VMs send and get")
    return [check for closed in found for check in _told(closed)]


def _in_use(patient: Patient, names: str) -> bool:
    try:
        return "filter" in patient.options.layout.at(f"/proc/net/{names}").read_text().split()
    except OSError:
        return False


def _told(closed: Closed) -> list[Check]:
    words = {"ip": "IPv4", "ip6": "IPv6"}.get(closed.family, "IPv4 and IPv6")
    return warn(
        "firewall",
        f"{closed.owner} drops what is forwarded ({words}, chain {closed.chain}): VMs do not reach the outside, nor it "
        "them",
        closed.fix,
    )


LOOKS = (firewall,)
