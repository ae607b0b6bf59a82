"""Makes plans from seeds: what people want, and what breaks meanwhile."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection

from tests.simulation import plan as items
from tests.simulation.generate_moves import comings_and_goings
from tests.simulation.plan import Item, Plan

#: Seconds before the first fault, and at the end without new ones.
CALM_BEGIN, CALM_END = 8.0, 30.0
#: The share of worlds whose hosts are linked: others are those of hosts that are not, and cost a third.
LINKED = 0.6
#: What breaks between hosts. Any of them in a focus makes hosts linked.
LINK_FAULTS = frozenset({"link-cut", "link-hold", "link-stall", "link-slow", "split", "late-command", "links"})
#: The share of worlds in which hosts are removed, leave and are invited.
MOVING = 0.4
#: Hosts that come and go because somebody wants it.
MOVES = frozenset({"removal", "invitation"})
#: What a focus may be on.
FOCI = (
    LINK_FAULTS
    | MOVES
    | {
        *("kill", "quit", "crash", "pause", "cut", "stall", "slow", "outage", "aborts", "lost-answers", "lost-hints"),
        *("no-hints", "clock-step", "fail-start", "ambush", "ambush-apply", "late", "singletons"),
    }
)
#: Where starts can fail.
JOBS = ("choose", "image", "template", "disk", "tap", "intent", "jail", "boot")


def generate(
    seed: int, hosts: int, minutes: float, *, crowded: bool | None = None, focus: Collection[str] = ()
) -> Plan:
    """Return the plan of a seed: ``minutes`` of trouble among so many hosts.

    ``crowded``: more is wanted than fits, at times. None leaves that to the seed. With a ``focus`` there is trouble of
    these kinds only; ``singletons`` among them makes most instances such.
    """
    assert FOCI.issuperset(focus), f"{sorted(set(focus) - FOCI)} is nothing to focus on"
    chance = random.Random(f"plan {seed} {hosts} {minutes}")
    seconds = minutes * 60.0
    crowded = chance.random() < 0.25 if crowded is None else crowded
    vcpu, memory = 8, 4096
    fits = hosts * vcpu
    wanted = round(fits * (chance.uniform(0.9, 1.3) if crowded else chance.uniform(0.15, 0.45)))
    made = _people(chance, hosts, seconds, max(2, wanted), 0.8 if "singletons" in focus else 0.15)
    made += _groups(chance, hosts, seconds)
    made += _operators(chance, hosts, seconds)
    made += _faults(chance, hosts, seconds, focus)
    # By a chance of their own: all else of a seed is the same with links and without.
    chance = random.Random(f"links {seed} {hosts} {minutes}")
    linked = chance.random() < LINKED if not focus else not LINK_FAULTS.isdisjoint(focus)
    if linked and hosts > 1:
        made += _link_faults(chance, hosts, seconds, focus)
    chance = random.Random(f"moves {seed} {hosts} {minutes}")
    settings: dict[str, bool | int] = {"links": linked}
    if (chance.random() < MOVING if not focus else not MOVES.isdisjoint(focus)) and hosts > 2:
        machines = chance.randrange(3) if not focus or "invitation" in focus else 0
        made += comings_and_goings(chance, hosts, machines, seconds, focus)
        settings["machines"] = machines
    made.sort(key=lambda item: item.at)
    return Plan(seed, hosts, seconds, tuple(made), vcpu, memory, settings=settings)


def _at(chance: random.Random, first: float, last: float) -> float:
    return round(chance.uniform(first, max(first, last)), 3)


def _people(chance: random.Random, hosts: int, seconds: float, vcpus: int, singletons: float) -> list[Item]:
    """Instances that are made, stopped, started, restarted and deleted."""
    made: list[Item] = []
    number = 0
    while vcpus > 0:
        vcpu = min(vcpus, chance.choice((1, 1, 1, 2, 2, 3)))
        vcpus -= vcpu
        born = _at(chance, 3.0, seconds * 0.55)
        made.append(
            items.Create(
                at=born,
                instance=number,
                via=chance.randrange(hosts),
                vcpu=vcpu,
                memory=chance.choice((128, 256, 384)) * vcpu,
                pinned=chance.randrange(hosts) if chance.random() < 0.08 else -1,
                restart=chance.choice(("always", "always", "always", "on-failure", "never")),
                singleton=chance.random() < singletons,
                stop_timeout=chance.choice((2.0, 5.0, 10.0)),
            )
        )
        made += _life(chance, hosts, seconds, number, born)
        number += 1
    return made


def _life(chance: random.Random, hosts: int, seconds: float, number: int, born: float) -> list[Item]:
    """What is asked of one instance after it was made."""
    made: list[Item] = []
    at = born
    for _ in range(chance.choice((0, 0, 1, 1, 2, 4))):
        at = round(at + chance.choice((0.05, 0.5, 2.0, 8.0, 20.0)) * chance.uniform(0.5, 1.5), 3)
        if at > seconds - CALM_END / 2:
            break
        via, force = chance.randrange(hosts), chance.random() < 0.2
        kind = chance.choice(("stop", "stop", "start", "start", "restart", "replace", "delete"))
        if kind == "stop":
            made.append(items.Stop(at, number, via, force))
        elif kind == "start":
            made.append(items.Start(at, number, via))
        elif kind == "replace":
            made.append(items.Replace(at, number, via, force))
        elif kind == "restart":
            made.append(items.Restart(at, number, via, force))
        else:
            made.append(items.Delete(at, number, via, force))
            break
    if chance.random() < 0.15:
        made.append(items.AppCrash(_at(chance, born, seconds - CALM_END), number))
    if chance.random() < 0.1:
        made.append(items.Deaf(_at(chance, born, seconds - CALM_END), number))
    return made


def _groups(chance: random.Random, hosts: int, seconds: float) -> list[Item]:
    """Groups that are made, scaled and deleted."""
    made: list[Item] = []
    for number in range(chance.choice((0, 1, 1, 2))):
        at = _at(chance, 3.0, seconds * 0.5)
        most = 2 * hosts
        made.append(
            items.CreateGroup(
                at,
                number,
                chance.randrange(hosts),
                chance.randrange(1, most + 1),
                restart=chance.choice(("always", "always", "never")),
            )
        )
        for _ in range(chance.choice((0, 1, 2, 3))):
            at = _at(chance, at, seconds - CALM_END / 2)
            made.append(items.Scale(at, number, chance.randrange(hosts), chance.randrange(0, most + 1)))
        if chance.random() < 0.2:
            made.append(items.DeleteGroup(_at(chance, at, seconds - CALM_END / 2), number, chance.randrange(hosts)))
        if chance.random() < 0.5:
            made.append(items.MemberCrash(_at(chance, at, seconds - CALM_END), number))
    return made


def _operators(chance: random.Random, hosts: int, seconds: float) -> list[Item]:
    """Hosts that are cordoned and drained, and most of them taken back."""
    made: list[Item] = []
    for _ in range(chance.choice((0, 0, 1, 1, 2))):
        host, at = chance.randrange(hosts), _at(chance, 10.0, seconds - 2 * CALM_END)
        kind = chance.choice((items.Drain, items.Drain, items.Cordon))
        made.append(kind(at, host, chance.randrange(hosts)))
        if chance.random() < 0.7:
            back = _at(chance, at + 1.0, seconds - CALM_END)
            made.append(items.Uncordon(back, host, chance.randrange(hosts)))
    return made


def _faults(chance: random.Random, hosts: int, seconds: float, focus: Collection[str]) -> list[Item]:
    """Faults, few or many, all of which end before the calm."""
    last = seconds - CALM_END

    def host() -> int:
        return _host(chance, hosts)

    def lasts(left: float, least: float, most: float) -> float:
        return _lasts(chance, left, least, most)

    makers: list[tuple[float, str, Callable[[float, float], Item]]] = [
        (4, "kill", lambda at, left: items.Kill(at, host(), lasts(left, 0.5, 20))),
        (2, "quit", lambda at, left: items.Quit(at, host(), lasts(left, 0.5, 20))),
        (3, "crash", lambda at, left: items.Crash(at, host(), lasts(left, 3, 40))),
        (4, "pause", lambda at, left: items.Pause(at, host(), lasts(left, 0.2, 40))),
        (4, "cut", lambda at, left: items.Cut(at, host(), lasts(left, 0.5, 40), _way(chance))),
        (3, "stall", lambda at, left: items.Stall(at, host(), lasts(left, 0.5, 12))),
        (2, "slow", lambda at, left: items.Slow(at, host(), lasts(left, 2, 30), chance.choice((0.05, 0.3, 1.0)))),
        (2, "outage", lambda at, left: items.Outage(at, lasts(left, 0.5, 30))),
        (2, "aborts", lambda at, left: items.Aborts(at, lasts(left, 2, 30), chance.choice((0.05, 0.2, 0.5)))),
        (
            5,
            "lost-answers",
            lambda at, left: items.LostAnswers(at, lasts(left, 2, 40), chance.choice((0.05, 0.2, 0.5))),
        ),
        (2, "lost-hints", lambda at, left: items.LostHints(at, lasts(left, 5, 60), chance.choice((0.3, 1.0)))),
        # Some to the very end: then nothing but slow timers is left to find out.
        (2, "no-hints", lambda at, left: items.LostHints(at, round(seconds - at, 3), 1.0)),
        (2, "clock-step", lambda at, left: items.ClockStep(at, chance.randrange(-1, hosts), _step(chance))),
        (2, "fail-start", lambda at, left: items.FailStart(at, host(), lasts(left, 1, 15), chance.choice(JOBS))),
        (7, "ambush", lambda at, left: _ambush(chance, at)),
        (2, "ambush-apply", lambda at, left: items.Ambush(at, chance.choice((12.0, 15.0, 20.0)), "apply", "pause")),
    ]
    if "late" in focus:
        # Not otherwise: a dead client's transaction can be committed late by Postgres, but its locks keep everybody
        # else from these rows until then, and the double has no locks.
        makers.append((1, "late", lambda at, left: items.Ambush(at, chance.choice((0.5, 2.0)), "observe", "late")))
    chosen = [maker for maker in makers if not focus or maker[1] in focus]
    weights = [weight for weight, _, _ in chosen]
    made: list[Item] = []
    if not chosen:
        return made
    for _ in range(chance.choice((2, 6, 10, 14, 20, 28)) if not focus else 14):
        at = _at(chance, CALM_BEGIN, last)
        _, _, make = chance.choices(chosen, weights)[0]
        made.append(make(at, max(0.1, last - at)))
    return made


def _link_faults(chance: random.Random, hosts: int, seconds: float, focus: Collection[str]) -> list[Item]:
    """What breaks between hosts, all of which is whole again before the calm."""
    last = seconds - CALM_END

    def pair() -> tuple[int, int]:
        one = _host(chance, hosts)
        return one, (one + chance.randrange(1, hosts)) % hosts

    def lasts(left: float, least: float, most: float) -> float:
        return _lasts(chance, left, least, most)

    makers: dict[str, tuple[float, Callable[[float, float], Item]]] = {
        "link-cut": (4, lambda at, left: items.LinkCut(at, *pair(), lasts(left, 0.5, 60), _way(chance))),
        "link-hold": (3, lambda at, left: items.LinkHold(at, *pair(), lasts(left, 0.5, 20))),
        "link-stall": (2, lambda at, left: items.LinkStall(at, *pair(), lasts(left, 0.5, 20))),
        "link-slow": (2, lambda at, left: items.LinkSlow(at, *pair(), lasts(left, 2, 30), chance.choice((0.1, 1, 3)))),
        "late-command": (2, lambda at, left: items.Ambush(at, _lasts(chance, 20.0, 12.0, 20.0), "command", "late")),
        "split": (
            4,
            lambda at, left: items.Split(
                at,
                _host(chance, hosts),
                chance.randrange(1, max(2, hosts // 2 + 1)),
                lasts(left, 1, 60),
                chance.random() < 0.6,
            ),
        ),
    }
    chosen = [maker for kind, maker in makers.items() if not focus or kind in focus or "links" in focus]
    made: list[Item] = []
    for _ in range(chance.choice((1, 3, 6, 9)) if not focus else 8):
        at = _at(chance, CALM_BEGIN, last)
        _, make = chance.choices(chosen, [weight for weight, _ in chosen])[0]
        made.append(make(at, max(0.1, last - at)))
    return made


def _host(chance: random.Random, hosts: int) -> int:
    # The first ones more often: troubles that meet are the interesting ones.
    return min(chance.randrange(hosts), chance.randrange(hosts))


def _lasts(chance: random.Random, left: float, least: float, most: float) -> float:
    """Return a duration, short ones as likely as long ones, that ends in time."""
    return round(min(left, least * math.pow(most / least, chance.random())), 3)


_HITS = ("pause", "kill", "kill", "crash")


def _ambush(chance: random.Random, at: float) -> Item:
    on = chance.choice(("apply", "apply", "applied", "observe", "observed", "acquire", "spawned", "spawned", "spawned"))
    does = chance.choice({"apply": ("pause",), "observe": ("pause", "kill", "crash")}.get(on, _HITS))
    seconds = chance.choice((0.5, 3.0, 12.0, 20.0)) * chance.uniform(0.8, 1.2)
    return items.Ambush(at, round(seconds, 3), on, does)


def _way(chance: random.Random) -> str:
    return chance.choice(("both", "both", "out", "in"))


def _step(chance: random.Random) -> float:
    return round(chance.choice((-1, 1)) * chance.choice((0.5, 5.0, 60.0, 3600.0)) * chance.uniform(0.5, 1.0), 3)
