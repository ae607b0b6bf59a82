"""Asks all hosts all the time, and checks what they answered against each other."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.e2e.remote import RemoteHost

#: Seconds between two rounds of questions to one host.
PAUSE = 0.5


class Address(NamedTuple):
    """Where an instance is, as far as its ``generation``."""

    generation: int
    placement: str
    v4: str


@dataclass(frozen=True)
class Seen:
    """One host's answer about one instance, and between which moments it was given."""

    host: str
    instance: str
    asked: float
    answered: float
    address: Address


class Observer:
    """Everything that hosts said of where instances are. Only good answers count: the others say that they can't."""

    def __init__(self, hosts: Sequence[RemoteHost]) -> None:
        self.seen: list[Seen] = []
        self.wrong: list[str] = []
        self.answers: Counter[str] = Counter()
        self._hosts = hosts
        self._done = threading.Event()
        self._lock = threading.Lock()
        #: Of instances that were listed with an address, the placement's generation: known from its own list.
        self._generations: dict[str, int] = {}
        self._listed: list[tuple[str, str, float, float, str, str]] = []

    @contextmanager
    def watching(self) -> Iterator[Observer]:
        """Ask meanwhile; at the end check what was answered."""
        threads = [threading.Thread(target=self._ask, args=(host,), daemon=True) for host in self._hosts]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._done.set()
            for thread in threads:
                thread.join(30)
        self.check()

    def check(self) -> None:
        """Fail if an instance was behind two addresses in what was answered."""
        assert not self.wrong, "\n".join(self.wrong)
        seen = self.seen + [
            Seen(host, instance, asked, answered, Address(self._generations[placement], placement, v4))
            for host, instance, asked, answered, placement, v4 in self._listed
            if placement in self._generations
        ]
        addresses: dict[str, Address] = {}
        for one in seen:
            known = addresses.setdefault(one.address.placement, one.address)
            assert known == one.address, f"a placement has two addresses: {known}, {one}"
        for instance in {one.instance for one in seen}:
            self._check([one for one in seen if one.instance == instance])

    @staticmethod
    def _check(seen: list[Seen]) -> None:
        """Whatever is asked after an answer has come must not know less than that answer."""
        newest: Seen | None = None
        earlier = iter(sorted(seen, key=lambda one: one.answered))
        ahead = next(earlier, None)
        for one in sorted(seen, key=lambda one: one.asked):
            while ahead is not None and ahead.answered < one.asked:
                if newest is None or ahead.address.generation > newest.address.generation:
                    newest = ahead
                ahead = next(earlier, None)
            if newest is not None:
                assert one.address.generation >= newest.address.generation, f"{one} after {newest}"
                if one.address.generation == newest.address.generation:
                    assert one.address == newest.address, f"{one} beside {newest}"

    def _ask(self, host: RemoteHost) -> None:
        while not self._done.wait(PAUSE):
            try:
                self._round(host)
            except (OSError, ValueError):
                self.answers["none"] += 1

    def _round(self, host: RemoteHost) -> None:
        asked = time.monotonic()
        answer = host.request("GET", "/api/v1/instances?limit=200", timeout=8)
        answered = time.monotonic()
        self.answers[str(answer.status)] += 1
        if answer.status != 200:
            return
        items = answer.body["items"]
        taken = Counter(item["ipv4"] for item in items if item["ipv4"] is not None)
        with self._lock:
            for address, times in taken.items():
                if times > 1:
                    self.wrong.append(f"{host.name} says that {times} instances are at {address}: {items}")
            ids = [item["id"] for item in items]
            if len(set(ids)) < len(ids):
                self.wrong.append(f"{host.name} lists an instance twice: {items}")
            for item in items:
                if item["placement_id"] is not None:
                    self._listed.append(
                        (host.name, item["id"], asked, answered, item["placement_id"], item["ipv4"])
                    )  # fmt: skip
        for instance in ids:
            self._placements(host, instance)

    def _placements(self, host: RemoteHost, instance: str) -> None:
        asked = time.monotonic()
        answer = host.request("GET", f"/api/v1/instances/{instance}/placements", timeout=8)
        answered = time.monotonic()
        self.answers[str(answer.status)] += 1
        if answer.status != 200:
            return
        tries: list[Any] = answer.body["items"]
        # Whatever is neither removed, given up, nor only there until its successor runs, is where the instance is.
        present = [one for one in tries if one["state"] != "removed" and one["lost_at"] is None]
        with self._lock:
            self._generations.update({one["id"]: one["generation"] for one in tries})
            if len([one for one in present if not one["kept"]]) > 1:
                self.wrong.append(f"{host.name} says that {instance} is in two places: {present}")
            if present:
                now = max(present, key=lambda one: (one["kept"], one["generation"]))
                address = Address(now["generation"], now["id"], now["ipv4"])
                self.seen.append(Seen(host.name, instance, asked, answered, address))
