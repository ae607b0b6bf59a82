"""What the observer takes for an instance behind two addresses, and what not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.observer import Address, Observer, Seen
from tests.e2e.remote import Response

OLD, NEW = Address(1, "one", "10.0.0.1"), Address(2, "two", "10.0.1.1")


def seen(address: Address, asked: float, answered: float, host: str = "alpha") -> Seen:
    return Seen(host, "web", asked, answered, address)


def check(*answers: Seen) -> None:
    observer = Observer([])
    observer.seen.extend(answers)
    observer.check()


def test_answers_that_follow_each_other_go_forward() -> None:
    check(seen(OLD, 0, 1), seen(OLD, 0, 2, "beta"), seen(NEW, 2, 3), seen(NEW, 3, 4, "beta"))


def test_answers_given_at_once_may_differ() -> None:
    check(seen(NEW, 1, 2), seen(OLD, 1, 3, "beta"), seen(NEW, 4, 5, "beta"))


def test_an_old_address_after_a_new_one_is_found() -> None:
    with pytest.raises(AssertionError, match="after"):
        check(seen(NEW, 1, 2), seen(OLD, 3, 4, "beta"))


def test_two_addresses_of_one_generation_are_found() -> None:
    with pytest.raises(AssertionError, match="beside"):
        check(seen(OLD, 1, 2), seen(Address(1, "other", "10.0.2.1"), 3, 4, "beta"))


def test_a_placement_whose_address_changes_is_found() -> None:
    with pytest.raises(AssertionError, match="two addresses"):
        check(seen(OLD, 1, 2), seen(OLD._replace(v4="10.0.0.9"), 1, 4, "beta"))


class Host:
    """Answers what it was given."""

    name = "alpha"

    def __init__(self, instances: list[Any], tries: list[Any], status: int = 200) -> None:
        self.status, self.instances, self.tries = status, instances, tries

    def request(self, method: str, path: str, *, timeout: float) -> Response:
        items = self.tries if path.endswith("/placements") else self.instances
        return Response(self.status, {}, {"items": items})


def listed(address: str, placement: str = "one", instance: str = "web") -> dict[str, Any]:
    return {"id": instance, "ipv4": address, "placement_id": placement}


def tried(address: Address, **more: Any) -> dict[str, Any]:
    one = {"id": address.placement, "generation": address.generation, "ipv4": address.v4}
    return one | {"state": "running", "lost_at": None, "kept": False} | more


def round_of(*hosts: Host) -> Observer:
    observer = Observer([])
    for host in hosts:
        observer._round(host)  # type: ignore[arg-type]
    return observer


def test_a_host_that_contradicts_another_is_found() -> None:
    here = Host([listed(NEW.v4, "two")], [tried(OLD, lost_at="then"), tried(NEW)])
    round_of(here, here).check()
    with pytest.raises(AssertionError, match="after"):
        round_of(here, Host([listed(OLD.v4)], [tried(OLD)])).check()
    with pytest.raises(AssertionError, match="after"):
        round_of(here, Host([listed(OLD.v4)], [])).check()
    round_of(here, Host([listed(OLD.v4)], [tried(OLD)], status=503)).check()


def test_two_places_in_one_answer_are_found() -> None:
    both = [tried(OLD), tried(NEW)]
    with pytest.raises(AssertionError, match="two places"):
        round_of(Host([listed(NEW.v4, "two")], both)).check()
    round_of(Host([listed(OLD.v4)], [tried(OLD, kept=True), tried(NEW)])).check()
    round_of(Host([listed(NEW.v4, "two")], [tried(OLD, state="removed"), tried(NEW)])).check()


def test_one_address_for_two_instances_and_one_listed_twice_are_found() -> None:
    two = [listed(OLD.v4), listed(OLD.v4, "two", "api")]
    with pytest.raises(AssertionError, match="2 instances"):
        round_of(Host(two, [])).check()
    with pytest.raises(AssertionError, match="twice"):
        round_of(Host([listed(OLD.v4), listed(NEW.v4, "two")], [])).check()
