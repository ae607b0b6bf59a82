"""Both stores under the same operations."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from typing import Any
from uuid import UUID

import trio

from actors.model.errors import Problem
from actors.model.health import HealthCheck, HealthState, HealthType
from actors.model.image import ImageConfig
from actors.model.records import Observation
from actors.model.resources import Capacity, Resources
from actors.model.scheduling import Requirements, Strategy, Taint
from actors.model.states import InstanceDesired, NodeDesired, NodeState, Outcome, PlacementState
from actors.registrar.store import Beat
from actors.scheduler.groups import reconcile
from actors.scheduler.plan import Planner, evaluate
from actors.scheduler.relocate import relocate
from actors.scheduler.store import Assignment, GroupChange, Move, Moved, Plan, Postponed
from runtime.lease import Candidate, Fenced, Granted, Term
from tests.simulation.store import Bug
from tests.zeitwork.store.contract.look import Ids, learn_double, learn_real, look_double, look_real
from tests.zeitwork.store.contract.plain import Plain, differences
from tests.zeitwork.store.contract.sides import Memory, Postgres
from zeitwork.store.leases import REST
from zeitwork.store.rows import HostRegistration, NewGroup, NewInstance

#: An id that nothing has, and a pick that means it.
NOBODY, UNKNOWN = UUID(int=99), 9
CAPACITIES = (
    Capacity(4, 4096, 0, 0, 4.0, 1.0, 24),
    Capacity(2, 1024, 1, 128, 1.0, 1.0, 32),
    Capacity(8, 2048, 0, 0, 1.0, 1.5, 0),
    Capacity(1, 256, 1, 0, 1.0, 1.0, 8),
)
#: Names, first hosts' networks and whether those have IPv6. The last one has two addresses to give, for one host.
REGIONS = (
    ("default", IPv6Network("fd00:1::/48"), IPv4Network("10.128.0.0/16"), True),
    ("far", IPv6Network("fd00:2::/48"), IPv4Network("10.9.0.0/21"), False),
    ("tiny", IPv6Network("fd00:3::/48"), IPv4Network("10.8.0.0/30"), True),
)
TAINTS = ((), (Taint("gpu"),), (Taint("team", "a"), Taint("gpu", "new")))
REQUIREMENTS = (
    Requirements(),
    Requirements(labels=(("zone", "a"),)),
    Requirements(region="far", tolerations=(Taint("gpu"),)),
    Requirements(hypervisor="qemu", architecture="x86_64", strategy=Strategy.SPREAD, tolerations=(Taint("team", "a"),)),
)
CHECKS = (HealthCheck(), HealthCheck(HealthType.HTTP, "/up", 8081, 5.0, 1.0, 3))
SIZES = (Resources(1, 100), Resources(2, 900), Resources(1, 4000), Resources(9, 64))
_CONFIG = ImageConfig(entrypoint=("/bin/app",), cmd=("serve",), env=("A=1",), user="app", exposed_ports=(8080,))
#: A term that `Both.term` begins lasts longer than a person waits.
_LONG = 1000.0

Call = Callable[[Any, "Refs"], Coroutine[Any, Any, Any]]


class Different(AssertionError):
    """The two stores are not the same any more."""


class Refs:
    """Ids of one side by the numbers that operations pick them with."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids

    def pick(self, kind: str, number: int) -> UUID:
        """Return the id of that number (modulo how many there are); nobody's for `UNKNOWN` and while there is none."""
        found = self._ids.lists[kind]
        return NOBODY if number == UNKNOWN or not found else found[number % len(found)]

    def placement(self, key: tuple[int, int] | None) -> UUID:
        """Return the id of a placement by the place of its instance and its generation."""
        return NOBODY if key is None else self._ids.placements[key]

    def id_of(self, name: str) -> UUID:
        """Return what is called that."""
        return next(identifier for identifier, known in self._ids.names.items() if known == name)


class Both:
    """Drives both. Every operation ends with a look at both; `Different` tells what the look found."""

    def __init__(self, real: Postgres, bugs: frozenset[Bug] = frozenset()) -> None:
        self.real, self.double = real, Memory(REST, bugs)
        self.ids = Ids(), Ids()
        self.refs = Refs(self.ids[0]), Refs(self.ids[1])
        self.terms: list[Term] = []
        self._candidates = 0
        self._plans: list[Call] = []
        real.empty()

    # --- the frame

    def call(self, what: str, call: Call, *, look: bool = True) -> Any:
        """Do one thing on both sides, compare what comes of it and what is told, and return Postgres's result."""
        self.real.units.nows.clear()
        self.real.units.wrote = self.double.wrote = False
        result, outcome = self._outcome(0, self.real, call)
        self.double.clock.show(self.real.units.nows)
        _, same = self._outcome(1, self.double, call)
        found = differences(outcome, same, "result")
        # What changed nothing needs no look, and that is most of what is refused.
        if not found and look and (self.real.units.wrote or self.double.wrote):
            found = self._compare()
        self._check(what, found)
        return result

    @staticmethod
    def _check(what: str, found: list[str]) -> None:
        if found:
            raise Different("\n".join((f"after {what}:", *found[:20])))

    def _outcome(self, side: int, store: Postgres | Memory, call: Call) -> tuple[Any, Any]:
        result = outcome = None
        try:
            result = trio.run(_wait_for, call, store.store, self.refs[side])
        except Problem as problem:
            outcome = {"refused": type(problem).__name__, "code": problem.code, "field": problem.field}
        except Fenced as fenced:
            outcome = {"fenced": str(fenced)}
        if store.wrote:
            self._learn(side)
        return result, {"result": self._plain(side).of(result)} if outcome is None else outcome

    def _learn(self, side: int) -> None:
        if side == 0:
            learn_real(self.real, self.ids[0])
        else:
            learn_double(self.double, self.ids[1])

    def _plain(self, side: int) -> Plain:
        return Plain(self.ids[side].names, (self.real, self.double)[side].now)

    def _compare(self) -> list[str]:
        events, notices = zip(self.real.told(), self.double.told(), strict=True)
        found = differences(self._events(0, events[0]), self._events(1, events[1]), "events")
        found += differences(self._notices(0, notices[0]), self._notices(1, notices[1]), "notices")
        self.real.units.nows.clear()
        real = look_real(self.real, self.ids[0])
        self.double.clock.show(self.real.units.nows)
        self.double.clock.next()
        return found + differences(real, look_double(self.double, self.ids[1]))

    def _events(self, side: int, events: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
        """Return events by their subject: in which order those of several come matters to nobody."""
        plain, found = self._plain(side), dict[str, list[Any]]()
        for one in events:
            told = {name: plain.of(one[name]) for name in ("who", "what", "data")}
            found.setdefault(f"{one['subject_kind']}: {plain.of(one['subject_id'])}", []).append(told)
        return found

    def _notices(self, side: int, notices: Sequence[tuple[str, str]]) -> list[str]:
        plain = self._plain(side)
        # The ids of events are their database's own.
        return sorted({f"{channel} {'' if channel == 'zw_events' else plain.of(what)}" for channel, what in notices})

    # --- hosts

    def register(self, number: int, region: int = 0, zone: str = "a") -> None:
        name, v6, v4, ipv6 = REGIONS[region]
        host = HostRegistration(
            host_id=UUID(int=1000 + number),
            hostname=f"h{number}",
            boot_id=f"boot-{number}",
            region=name,
            region_v6=v6,
            region_v4=v4,
            ipv6=ipv6,
            version="1",
            labels={"zone": zone},
        )
        self.call(f"register({number}, {region}, {zone!r})", lambda store, refs: store.nodes.register(host))

    def capacity(self, node: int, which: int) -> None:
        self.call(
            f"capacity({node}, {which})",
            lambda store, refs: store.nodes.record_capacity(refs.pick("nodes", node), CAPACITIES[which]),
        )

    def state(self, node: int, state: NodeState, reason: str = "") -> None:
        self.call(
            f"state({node}, {state}, {reason!r})",
            lambda store, refs: store.nodes.set_state(refs.pick("nodes", node), state, reason),
        )

    def desire_node(self, node: int, desired: NodeDesired) -> None:
        self.call(
            f"desire_node({node}, {desired})",
            lambda store, refs: store.nodes.set_desired(refs.pick("nodes", node), desired),
        )

    def delete_node(self, node: int) -> None:
        self.call(f"delete_node({node})", lambda store, refs: store.nodes.delete(refs.pick("nodes", node)))

    def close_node(self, node: int, reason: str) -> None:
        self.call(
            f"close_node({node}, {reason!r})",
            lambda store, refs: store.nodes.record_closed(refs.pick("nodes", node), reason),
        )

    def taints(self, node: int, which: int) -> None:
        self.call(
            f"taints({node}, {which})",
            lambda store, refs: store.nodes.set_taints(refs.pick("nodes", node), TAINTS[which]),
        )

    def condition(self, node: int, hypervisor: str | None, pressure: float) -> None:
        self.call(
            f"condition({node}, {hypervisor!r}, {pressure})",
            lambda store, refs: store.nodes.record_condition(refs.pick("nodes", node), hypervisor, pressure),
        )

    def heartbeat(self, node: int, late: int = 0) -> None:
        """Let a node's process give a sign of life, or with ``late`` one that was started before it."""

        async def call(store: Any, refs: Refs) -> Any:
            node_id = refs.pick("nodes", node)
            generation = 1 if node_id == NOBODY else (await store.nodes.get(node_id)).generation - late
            return await store.presence.heartbeat(node_id, generation)

        self.call(f"heartbeat({node}, {late})", call)

    def mark_down(self, node: int, late: bool = False, ended: int = 0) -> None:
        """Find a host dead, or with ``late`` one that has given a sign of life since."""
        term = self.term(ended)

        async def call(store: Any, refs: Refs) -> Any:
            beats = await store.presence.beats()
            if not beats:
                return None
            beat: Beat = beats[node % len(beats)]
            return await store.presence.mark_down(replace(beat, seen=beat.seen - 5) if late else beat, "silent", term)

        self.call(f"mark_down({node}, {late}, {ended})", call)

    # --- images

    def image(self, number: int, upload: int | None = None) -> None:
        """Ask for an image, or have one that was uploaded to a host; one that was asked for is the same."""

        def call(store: Any, refs: Refs) -> Any:
            image_id = UUID(int=(1 << 70) + number)
            if upload is None:
                return store.images.create("app:1", id=image_id)
            return store.images.create("archive:app", id=image_id, node_id=refs.pick("nodes", upload))

        if upload != UNKNOWN:
            self.call(f"image({number}, {upload})", call)

    def cached(self, node: int, images: Sequence[int]) -> None:
        """Let a host tell which images it has."""
        digests = frozenset(f"sha256:{image}" for image in images)
        self.call(
            f"cached({node}, {images})",
            lambda store, refs: store.images.record_cached(refs.pick("nodes", node), digests),
        )

    def image_ready(self, image: int) -> None:
        digest = f"sha256:{image}"
        self.call(
            f"image_ready({image})",
            lambda store, refs: store.images.ready(refs.pick("images", image), digest, _CONFIG, 1_000_000),
        )

    def image_failed(self, image: int) -> None:
        self.call(
            f"image_failed({image})",
            lambda store, refs: store.images.failed(refs.pick("images", image), "no such tag", "image", "choose one"),
        )

    # --- instances

    def create(
        self,
        *,
        image: int = 0,
        size: int = 0,
        name: int | None = None,
        pin: int | None = None,
        priority: int = 50,
        singleton: bool = False,
        requirements: int = 0,
        check: int = 0,
        again: int | None = None,
    ) -> None:
        """Create an instance, or with ``again`` the one that there is once more."""

        def call(store: Any, refs: Refs) -> Any:
            new = _new(refs, image, size, priority, singleton, requirements, check)
            return store.instances.create(
                replace(
                    new,
                    name=None if name is None else ("web-0", "db", "web-1")[name],
                    node_id=None if pin is None else refs.pick("nodes", pin),
                    id=None if again is None or not refs._ids.lists["instances"] else refs.pick("instances", again),
                )
            )

        self.call(
            f"create(image={image}, size={size}, name={name}, pin={pin}, priority={priority}, singleton={singleton}, "
            f"requirements={requirements}, check={check}, again={again})",
            call,
        )

    def desire(self, instance: int, desired: InstanceDesired, force: bool = False, wait: float | None = None) -> None:
        self.call(
            f"desire({instance}, {desired}, {force}, {wait})",
            lambda store, refs: store.instances.set_desired(
                refs.pick("instances", instance), desired, force=force, stop_timeout=wait
            ),
        )

    def restart(self, instance: int, force: bool = False, wait: float | None = None) -> None:
        self.call(
            f"restart({instance}, {force}, {wait})",
            lambda store, refs: store.instances.restart(
                refs.pick("instances", instance), force=force, stop_timeout=wait
            ),
        )

    def pause(self, instance: int) -> None:
        self.call(f"pause({instance})", lambda store, refs: store.instances.pause(refs.pick("instances", instance)))

    def resume(self, instance: int) -> None:
        self.call(f"resume({instance})", lambda store, refs: store.instances.resume(refs.pick("instances", instance)))

    def replace(self, instance: int, force: bool = False) -> None:
        self.call(
            f"replace({instance}, {force})",
            lambda store, refs: store.instances.replace(refs.pick("instances", instance), force=force),
        )

    # --- groups

    def group(self, name: int, replicas: int, *, image: int = 0, size: int = 0, singleton: bool = False) -> None:
        def call(store: Any, refs: Refs) -> Any:
            template = _new(refs, image, size, 50, singleton, 0, 0)
            return store.groups.create(NewGroup(("web", "api")[name], template, replicas))

        self.call(f"group({name}, {replicas}, image={image}, size={size}, singleton={singleton})", call)

    def scale(self, group: int, replicas: int) -> None:
        self.call(
            f"scale({group}, {replicas})", lambda store, refs: store.groups.scale(refs.pick("groups", group), replicas)
        )

    def delete_group(self, group: int) -> None:
        self.call(f"delete_group({group})", lambda store, refs: store.groups.delete(refs.pick("groups", group)))

    # --- the leader

    def acquire(self, node: int, ttl: float = 10.0, above: int = 0, boot: int = 0) -> None:
        """Let a process want to lead; the same ``boot`` is the same process."""

        async def call(store: Any, refs: Refs) -> Any:
            candidate = Candidate(refs.pick("nodes", node), boot + 1, UUID(int=500 + boot))
            return await store.election.acquire(candidate, ttl=ttl, above=above)

        if not self.ids[0].lists["nodes"] or node == UNKNOWN:
            return
        result = self.call(f"acquire({node}, {ttl}, {above}, {boot})", call)
        if isinstance(result, Granted):
            self.terms.append(Term(result.epoch, UUID(int=500 + boot), ttl))

    def renew(self, ended: int = 0) -> None:
        if self.terms:
            term = self._term(ended)
            self.call(f"renew({ended})", lambda store, refs: store.election.renew(term))

    def resign(self, ended: int = 0) -> None:
        if self.terms:
            term = self._term(ended)
            self.call(f"resign({ended})", lambda store, refs: store.election.resign(term))

    def term(self, ended: int = 0) -> Term:
        """Return a term that is in office, begun if need be; with ``ended`` one that was so many terms ago."""
        if ended:
            return self._term(ended) if self.terms else Term(77, UUID(int=77), 10.0)
        if not self.terms or not self.call(
            "renew", lambda store, refs: store.election.renew(self._term(0)), look=False
        ):
            # Whoever leads may have a lease for long: a process of the same host takes it over.
            self._candidates += 1
            boot, generation = UUID(int=600 + self._candidates), 1000 + self._candidates

            async def call(store: Any, refs: Refs) -> Any:
                leader = await store.election.leader()
                host = refs.pick("nodes", 0) if leader is None else leader.node_id
                return await store.election.acquire(Candidate(host, generation, boot), ttl=_LONG, above=0)

            granted = self.call("acquire", call, look=False)
            assert isinstance(granted, Granted)
            self.terms.append(Term(granted.epoch, boot, _LONG))
        return self._term(0)

    def _term(self, ended: int) -> Term:
        return self.terms[-1 - min(ended, len(self.terms) - 1)]

    def reconcile(self, chance: float = 0.5, ended: int = 0) -> None:
        """Do about groups what the scheduler would."""
        term = self.term(ended)

        async def call(store: Any, refs: Refs) -> Any:
            changes = [reconcile(view, chance) for view in await store.scheduling.groups()]
            return await store.scheduling.apply_groups(tuple(one for one in changes if one is not None), term)

        self.call(f"reconcile({chance}, {ended})", call)

    def change_group(
        self,
        group: int,
        late: int = 0,
        create: tuple[int, ...] = (),
        terminate: tuple[int, ...] = (),
        failures: int | None = None,
        retry_in: float | None = None,
        gone: bool = False,
        twice: bool = False,
    ) -> None:
        """Do anything about a group."""
        term = self.term()

        async def call(store: Any, refs: Refs) -> Any:
            group_id = refs.pick("groups", group)
            generation = 1 if group_id == NOBODY else (await store.groups.get(group_id)).generation - late
            ended = tuple(refs.pick("instances", one) for one in terminate)
            change = GroupChange(group_id, generation, create, ended, failures, retry_in, gone)
            first = await store.scheduling.apply_groups((change,), term)
            return first, await store.scheduling.apply_groups((change, change), term) if twice else 0

        self.call(
            f"change_group({group}, {late}, {create}, {terminate}, {failures}, {retry_in}, {gone}, {twice})", call
        )

    def evaluate(self, page: int = 5000, ended: int = 0, twice: bool = False) -> None:
        """Do about what is pending what the scheduler would, a page at a time."""
        term = self.term(ended)

        async def call(store: Any, refs: Refs) -> Any:
            after, done = None, []
            while True:
                pending = await store.scheduling.pending(after, page)
                plan = evaluate(pending, await store.scheduling.nodes())
                done.append((pending, plan, await store.scheduling.apply_plan(plan, term)))
                if twice:
                    done.append((await store.scheduling.apply_plan(plan, term),))
                after = pending.after
                if after is None:
                    return done

        self.call(f"evaluate({page}, {ended}, {twice})", call)

    def assign(
        self, choices: Sequence[tuple[int, int, int]], postponed: Sequence[tuple[int, int, bool]], ended: int = 0
    ) -> None:
        """Place anything anywhere, legal or not, and postpone anything: instances, generations too low, nodes."""
        term = self.term(ended)

        async def call(store: Any, refs: Refs) -> Any:
            assignments = [
                Assignment(*await _wanted(store, refs, instance, late), refs.pick("nodes", node))
                for instance, late, node in choices
            ]
            reasons = [
                Postponed(*await _wanted(store, refs, instance, late), "no room", final)
                for instance, late, final in postponed
            ]
            return await store.scheduling.apply_plan(Plan(tuple(assignments), tuple(reasons)), term)

        self.call(f"assign({choices}, {postponed}, {ended})", call)

    def relocate(self, ended: int = 0, twice: bool = False) -> None:
        """Do about what is on dead and draining hosts what the scheduler would."""
        term = self.term(ended)

        async def call(store: Any, refs: Refs) -> Any:
            planner = Planner(await store.scheduling.nodes())
            decided = relocate(await store.scheduling.displaced(), planner)
            first = await store.scheduling.apply_moves(decided.moves, term)
            return decided, first, await store.scheduling.apply_moves(decided.moves, term) if twice else 0

        self.call(f"relocate({ended}, {twice})", call)

    def move(self, moves: Sequence[tuple[int, int, Move]], ended: int = 0) -> None:
        """Move any placements in any way, whether that is sensible or not: placements, generations too low, moves."""
        term = self.term(ended)
        keys = [self.find(number) for number, _, _ in moves]

        async def call(store: Any, refs: Refs) -> Any:
            decided = []
            for (number, late, what), key in zip(moves, keys, strict=True):
                instance = number if key is None else key[0]
                wanted = await _wanted(store, refs, instance, late)
                decided.append(Moved(*wanted, refs.placement(key), what, f"for {what}"))
            return await store.scheduling.apply_moves(tuple(decided), term)

        self.call(f"move({moves}, {ended})", call)

    # --- what hosts see

    def find(self, number: int) -> tuple[int, int] | None:
        """Return which placement a number means: live ones come before those that are removed."""
        keys = self._in_order()
        return keys[number % len(keys)] if keys and number != UNKNOWN else None

    def _in_order(self) -> list[tuple[int, int]]:
        live = {row.id for row in self.double.database.placements if row.live}
        placements = self.ids[1].placements
        return sorted(placements, key=lambda key: (placements[key] not in live, key))

    def start(self, most: int) -> None:
        """Let up to so many run that nobody has begun to start."""
        placements, states = self.ids[1].placements, {row.id: row.state for row in self.double.database.placements}
        for key in [key for key in self._in_order() if states[placements[key]] is PlacementState.ASSIGNED][:most]:
            self.observe(self._in_order().index(key), PlacementState.RUNNING)

    def observe(
        self,
        placement: int,
        state: PlacementState,
        outcome: Outcome | None = None,
        status: int | None = None,
        failures: int | None = None,
        reason: str = "",
        expected: tuple[PlacementState, ...] = tuple(PlacementState),
        wait: float | None = None,
    ) -> None:
        key = self.find(placement)
        if state is not PlacementState.WAITING:
            wait = None

        def call(store: Any, refs: Refs) -> Any:
            now = self.real.now if store is self.real.store else self.double.now
            again = None if wait is None else now + wait
            seen = Observation(state, reason, outcome, status, "qemu", 4711, "boot-1", failures, again)
            return store.placements.observe(refs.placement(key), list(expected), seen)

        self.call(
            f"observe({placement}, {state}, {outcome}, {status}, {failures}, {reason!r}, {expected}, {wait})", call
        )

    def health(self, placement: int, state: HealthState, reason: str = "") -> None:
        key = self.find(placement)
        self.call(
            f"health({placement}, {state}, {reason!r})",
            lambda store, refs: store.placements.record_health(refs.placement(key), state, reason),
        )

    def tombstones(self, node: int) -> None:
        keys = list(self.ids[1].placements)

        def call(store: Any, refs: Refs) -> Any:
            return store.placements.tombstones(refs.pick("nodes", node), [*map(refs.placement, keys), NOBODY])

        self.call(f"tombstones({node})", call)

    def expire(self, node: int) -> None:
        self.call(f"expire({node})", lambda store, refs: store.leases.expire_rested(refs.pick("nodes", node)))

    def wait(self, seconds: int) -> None:
        """Let time pass."""

        async def nothing(store: Any, refs: Refs) -> None:
            return None

        self.real.pass_time(seconds)
        self.double.clock.ahead += seconds
        self.call(f"wait({seconds})", nothing)
        self._check(f"wait({seconds})", self._compare())

    def begin(self) -> None:
        """Have two hosts that are ready, and an image."""
        for number in range(2):
            self.register(number, 0, "ab"[number])
            self.capacity(number, 0)
            self.state(number, NodeState.READY)
        self.image(0)
        self.image_ready(0)


async def _wait_for(call: Call, store: Any, refs: Refs) -> Any:
    return await call(store, refs)


def _new(
    refs: Refs, image: int, size: int, priority: int, singleton: bool, requirements: int, check: int
) -> NewInstance:
    return NewInstance(
        refs.pick("images", image),
        SIZES[size],
        8080,
        environment={"A": "1"},
        command=("run",),
        priority=priority,
        singleton=singleton,
        requirements=REQUIREMENTS[requirements],
        health=CHECKS[check],
    )


async def _wanted(store: Any, refs: Refs, instance: int, late: int) -> tuple[UUID, int]:
    """Return an instance and its present generation, or one that is so much lower."""
    instance_id = refs.pick("instances", instance)
    return instance_id, 1 if instance_id == NOBODY else (await store.instances.get(instance_id)).generation - late
