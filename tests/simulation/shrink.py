"""Makes a failing plan small: fewer items first, then simpler values. Whatever is left is needed for the failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from tests.simulation import plan as items
from tests.simulation.plan import Item, Plan

T = TypeVar("T")


def shrink(plan: Plan, fails: Callable[[Plan], bool], *, most: int = 400) -> Plan:
    """Return a smaller plan that still ``fails``; at most so many are tried.

    ``plan`` itself must fail. Removes items (delta debugging), then hosts, then time, then makes values simpler, and
    begins anew as long as that helps.
    """
    left = most

    def check(candidate: Plan) -> bool:
        nonlocal left
        if left <= 0:
            return False
        left -= 1
        return fails(candidate)

    while left > 0:
        before = plan
        plan = _with_items(plan, fewer(plan.items, lambda some, plan=plan: check(_with_items(plan, some))))  # type: ignore[misc]
        for candidate in _simpler(plan):
            if check(candidate):
                plan = candidate
        if plan == before:
            break
    return plan


def fewer(parts: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> Sequence[T]:
    """Return a subsequence that fails and none of whose elements can be left out alone (Zeller's ddmin)."""
    parts = list(parts)
    pieces = 2
    while parts:
        size = max(1, len(parts) // pieces)
        for begin in range(0, len(parts), size):
            rest = parts[:begin] + parts[begin + size :]
            if fails(rest):
                parts, pieces = rest, max(2, pieces - 1)
                break
        else:
            if size == 1:
                break
            pieces = min(len(parts), pieces * 2)
    return parts


def _with_items(plan: Plan, some: Sequence[Item]) -> Plan:
    return replace(plan, items=tuple(some))


def _simpler(plan: Plan) -> Iterator[Plan]:
    """Return plans that are a little simpler; each is of this plan, so that some of them can be taken together."""
    most = max([2, *(_host(item) + 1 for item in plan.items)])
    for hosts in range(most, plan.hosts):
        yield replace(plan, hosts=hosts)
    last = max([1.0, *(item.at for item in plan.items)])
    for seconds in (last + 5.0, last + 30.0):
        if seconds < plan.seconds:
            yield replace(plan, seconds=round(seconds, 1))
    for index, item in enumerate(plan.items):
        for simple in _simpler_item(item):
            if simple != item:
                changed = (*plan.items[:index], simple, *plan.items[index + 1 :])
                yield _with_items(plan, changed)


def _host(item: Item) -> int:
    return max(
        int(getattr(item, "host", 0)),
        int(getattr(item, "pinned", 0)),
        int(getattr(item, "via", 0)),
        int(getattr(item, "other", 0)),
    )


def _simpler_item(item: Item) -> Iterator[Item]:
    yield replace(item, at=float(round(item.at)))
    if hasattr(item, "seconds"):
        yield replace(item, seconds=float(max(1, round(item.seconds))))  # type: ignore[call-arg]
    if hasattr(item, "share"):
        yield replace(item, share=1.0)  # type: ignore[call-arg]
    if hasattr(item, "via"):
        yield replace(item, via=0)  # type: ignore[call-arg]
    if isinstance(item, items.Create):
        plain = items.Create(item.at, item.instance, item.via)
        for name in ("pinned", "restart", "singleton", "stop_timeout", "vcpu", "memory"):
            yield replace(item, **{name: getattr(plain, name)})
