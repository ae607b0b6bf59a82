"""Why a node can't run an instance whatever is free on it: one test for each thing that can be asked of it."""

from __future__ import annotations

from collections.abc import Callable

from actors.model.scheduling import Requirements
from actors.model.states import NodeDesired, NodeState
from actors.scheduler.store import NodeView

#: Returns what keeps an instance away from a node, in the words of a reason ("draining"), or None.
Check = Callable[[NodeView], str | None]


def availability(node: NodeView) -> str | None:
    """Return why a node takes nothing new, or None."""
    if node.state is not NodeState.READY:
        return node.state.value
    if node.desired is not NodeDesired.READY:
        return node.desired.value
    if node.closed:
        # What comes after the colon are the moment's figures: each host's are others, and equal obstacles are counted.
        return f"closed ({node.closed.partition(':')[0]})"
    return None


def checks(requirements: Requirements) -> tuple[Check, ...]:
    """Return the tests that a node has to pass for these requirements, in the order in which reasons name them."""
    found: list[Check] = []
    if requirements.region is not None:
        found.append(_region(requirements.region))
    found += [_label(key, value) for key, value in requirements.labels]
    found.append(_taints(requirements))
    if requirements.hypervisor is not None:
        found.append(_hypervisor(requirements.hypervisor))
    if requirements.architecture is not None:
        found.append(_architecture(requirements.architecture))
    return tuple(found)


def obstacle(node: NodeView, requirements: Requirements) -> str | None:
    """Return the first thing that keeps an instance with these requirements away from this node, or None."""
    found = availability(node)
    if found is None:
        found = next((why for check in checks(requirements) if (why := check(node)) is not None), None)
    return found


def _region(wanted: str) -> Check:
    why = f"not in region {wanted}"
    return lambda node: None if node.region == wanted else why


def _label(key: str, value: str) -> Check:
    why = f"lacks label {key}={value}"
    return lambda node: None if node.labels.get(key) == value else why


def _taints(requirements: Requirements) -> Check:
    def check(node: NodeView) -> str | None:
        for taint in node.taints:
            if not requirements.tolerates(taint):
                return f"tainted {taint}"
        return None

    return check


def _hypervisor(wanted: str) -> Check:
    def check(node: NodeView) -> str | None:
        if node.hypervisor == wanted:
            return None
        return f"runs {node.hypervisor}, not {wanted}" if node.hypervisor else "has not found a hypervisor yet"

    return check


def _architecture(wanted: str) -> Check:
    return lambda node: None if node.architecture == wanted else "is another architecture"
