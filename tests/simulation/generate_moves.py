"""Makes the part of a plan in which hosts are removed, leave and are invited."""

from __future__ import annotations

import random
from collections.abc import Collection

from tests.simulation import plan as items
from tests.simulation.plan import Item

#: Seconds at the beginning and at the end in which nobody comes or goes.
FIRST, LAST = 12.0, 40.0
#: Seconds without a sign of life after which a host can be removed.
SILENT = 30.0


def comings_and_goings(
    chance: random.Random, hosts: int, machines: int, seconds: float, focus: Collection[str]
) -> list[Item]:
    """Return what becomes of some hosts, and of so many ``machines`` that are none at first. Two hosts stay."""
    made: list[Item] = []
    last = seconds - LAST
    share = 0.5 if not focus else 1.0
    going = [number for number in range(1, hosts) if chance.random() < share][: hosts - 2] or [hosts - 1]
    for host in going if not focus or "removal" in focus else ():
        made += _going(chance, host, hosts, last)
    for machine in range(hosts, hosts + machines):
        made += _coming(chance, machine, hosts, FIRST, last)
    return made


def _at(chance: random.Random, first: float, last: float) -> float:
    return round(chance.uniform(first, max(first, last)), 3)


def _going(chance: random.Random, host: int, hosts: int, last: float) -> list[Item]:
    """What becomes of one host."""
    at = _at(chance, FIRST, max(FIRST, last - 45.0))
    via = chance.randrange(hosts)
    match chance.choice(("dies", "dies", "dies", "alive", "leaves", "leaves", "forced", "forced")):
        case "dies":
            return _dying(chance, host, hosts, at, last)
        case "alive":
            # Too early, mostly: it lives, or was heard of just now.
            return [items.Remove(_at(chance, at, last), host, via, chance.random() < 0.5) for _ in range(3)]
        case "leaves":
            made: list[Item] = [items.Drain(at, host, via)] if chance.random() < 0.8 else []
            made += [items.Leave(_at(chance, at + 5.0, last), host) for _ in range(2)]
            return made + _back(chance, host, hosts, made[-1].at, last)
        case _:
            left = items.Leave(at, host, force=True)
            return [left, *_back(chance, host, hosts, at, last)]


def _dying(chance: random.Random, host: int, hosts: int, at: float, last: float) -> list[Item]:
    """One that is silent for long, and removed meanwhile or as it comes back."""
    seconds = round(min(chance.uniform(35.0, 75.0), max(1.0, last - at)), 3)
    silent: list[Item] = [
        items.Kill(at, host, seconds),
        items.Crash(at, host, seconds),
        items.Pause(at, host, seconds),
        items.Cut(at, host, seconds),
        items.Quit(at, host, seconds),
    ]
    made = [chance.choice(silent)]
    for _ in range(chance.choice((1, 1, 2, 3))):
        when = _at(chance, at + SILENT - 2.0, at + seconds + 10.0)
        made.append(items.Remove(when, host, chance.randrange(hosts), chance.random() < 0.5))
    return made + _back(chance, host, hosts, at + seconds, last)


def _back(chance: random.Random, host: int, hosts: int, at: float, last: float) -> list[Item]:
    """Often a machine is to be a host again: it forgets that it was one, and is invited."""
    if chance.random() < 0.4:
        return []
    at = _at(chance, at, last)
    return [items.Leave(at, host, force=True), *_coming(chance, host, hosts, at + 2.0, last)]


def _coming(chance: random.Random, machine: int, hosts: int, first: float, last: float) -> list[Item]:
    """One machine that is invited, more than once perhaps, or by a code that is not its."""
    made: list[Item] = []
    for _ in range(chance.choice((1, 1, 2, 3))):
        timeout = round(chance.choice((5.0, 20.0, 40.0, 60.0)) * chance.uniform(0.8, 1.2), 3)
        at = _at(chance, first, last)
        made.append(items.Invite(at, machine, chance.randrange(hosts), timeout, wrong=chance.random() < 0.15))
    if chance.random() < 0.3:
        # It is off for a while as it is invited.
        made.append(items.Kill(round(max(0.0, made[0].at - 1.0), 3), machine, round(chance.uniform(1.0, 20.0), 3)))
    return made
