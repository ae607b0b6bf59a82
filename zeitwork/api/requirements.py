"""What an instance asks of the host that it is placed on, in requests and answers."""

from __future__ import annotations

from enum import StrEnum
from itertools import pairwise
from typing import Annotated

import msgspec

from actors.model.errors import InvalidInput
from actors.model.scheduling import ANYWHERE, Requirements, Strategy, Taint
from zeitwork.api.decode import Input

LabelKey = Annotated[
    str,
    msgspec.Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$(?!\n)", description="a label's name"),
]
LabelValue = Annotated[str, msgspec.Meta(max_length=63)]
#: So many labels, tolerations or taints are more than anybody reads.
MOST = 64


class HypervisorName(StrEnum):
    """What can run virtual machines on a host."""

    FIRECRACKER = "firecracker"
    QEMU = "qemu"


class Architecture(StrEnum):
    """The machine architectures that hosts can have."""

    X86_64 = "x86_64"


class WantedTaint(Input):
    """A taint of a host, or one that is tolerated: then without a value it stands for every value."""

    key: LabelKey
    value: LabelValue = ""


class WantedRequirements(Input):
    """What a host must be; what is left out or null asks for nothing.

    ``labels`` must all be there. A host with taints takes only what tolerates each of them. ``strategy`` null is spread
    in a group, binpack otherwise. A region or label that no host has leaves the instance pending with that reason.
    """

    region: Annotated[str, msgspec.Meta(min_length=1, max_length=63)] | None = None
    labels: Annotated[dict[LabelKey, LabelValue], msgspec.Meta(max_length=MOST)] = msgspec.field(default_factory=dict)
    hypervisor: HypervisorName | None = None
    architecture: Architecture | None = None
    tolerations: Annotated[list[WantedTaint], msgspec.Meta(max_length=MOST)] = msgspec.field(default_factory=list)
    strategy: Strategy | None = None


class GivenTaint(msgspec.Struct, frozen=True, kw_only=True):
    """A taint of a host, or one that is tolerated; without a value that is every value."""

    key: str
    value: str


class GivenRequirements(msgspec.Struct, frozen=True, kw_only=True):
    """What a host must be; null, and nothing in a list or object, asks for nothing."""

    region: str | None
    labels: dict[str, str]
    hypervisor: str | None
    architecture: str | None
    tolerations: list[GivenTaint]
    strategy: Strategy | None


def requirements_of(wanted: WantedRequirements | None) -> Requirements:
    """Return what was asked for."""
    if wanted is None:
        return ANYWHERE
    return Requirements(
        region=wanted.region,
        labels=tuple(sorted(wanted.labels.items())),
        hypervisor=None if wanted.hypervisor is None else wanted.hypervisor.value,
        architecture=None if wanted.architecture is None else wanted.architecture.value,
        tolerations=taints_of(wanted.tolerations, "requirements.tolerations"),
        strategy=wanted.strategy,
    )


def taints_of(wanted: list[WantedTaint], field: str) -> tuple[Taint, ...]:
    """Return taints, sorted. Raises `InvalidInput` when one is named twice."""
    found = sorted(Taint(one.key, one.value) for one in wanted)
    for before, after in pairwise(found):
        if before == after:
            raise InvalidInput(f"{after} is there twice", field=field, fix="name it once")
    return tuple(found)


def given_requirements(wanted: Requirements) -> GivenRequirements:
    """Return requirements as the API shows them."""
    return GivenRequirements(
        region=wanted.region,
        labels=dict(wanted.labels),
        hypervisor=wanted.hypervisor,
        architecture=wanted.architecture,
        tolerations=given_taints(wanted.tolerations),
        strategy=wanted.strategy,
    )


def given_taints(taints: tuple[Taint, ...]) -> list[GivenTaint]:
    """Return taints as the API shows them."""
    return [GivenTaint(key=taint.key, value=taint.value) for taint in taints]
