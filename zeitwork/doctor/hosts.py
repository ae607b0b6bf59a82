"""What the host that runs here hears of the others: whom it misses."""

from __future__ import annotations

from typing import Any

from actors.model.errors import Problem
from zeitwork.cli.client import Client
from zeitwork.cli.output import span
from zeitwork.doctor.check import Check, Patient, ok, warn

#: Of how many hosts it is said that they are missed.
_MOST_NAMED = 5


def hosts(patient: Patient) -> list[Check]:
    """Other hosts that this one does not hear, by gossip: the database may be away, and is not asked."""
    if not patient.config.api_socket.exists():
        return []  # `host` says that it does not run
    client = Client(patient.config.api_socket, url="")
    try:
        found = [one for one in client.pages("/api/v1/members") if not one["own"]]
    except Problem:
        return []  # not for this user, or it does not answer: `host` and `user` say so
    finally:
        client.close()
    if not found:
        return []
    missed = [one for one in found if one["state"] != "alive"]
    if not missed:
        return ok("hosts", f"{len(found)} other{'s' if len(found) > 1 else ''}, all heard")
    names = [_name(one) for one in missed]
    said = [f"{name} {_trouble(one)}" for name, one in zip(names, missed, strict=True)][:_MOST_NAMED]
    if len(missed) > _MOST_NAMED:
        said.append(f"{len(missed) - _MOST_NAMED} more")
    fix = f"zeitwork run on {names[0]}; if it never comes back: zeitwork nodes rm {names[0]} --dead"
    return warn("hosts", "; ".join(said), fix)


def _name(one: Any) -> str:
    return str(one["hostname"] or one["node_id"])


def _trouble(one: Any) -> str:
    if one["state"] == "left":
        return f"was stopped {span(one['age'])} ago"
    return f"is {one['state']}{', its process gone' if one['refused'] else ', not reached'}, for {span(one['age'])}"


LOOKS = (hosts,)
