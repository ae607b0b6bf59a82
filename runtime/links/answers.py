"""Errors between hosts: what one raises here as a refusal on the wire, and what a refusal raises there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.errors import ActorStopped, MailboxFull, RequestFailed, UnknownActor
from runtime.links.connection import Declined
from runtime.links.errors import Expired, Refused, RemoteProblem, StaleEpoch
from runtime.reply import passes_to_asker

#: Codes of the runtime's own refusals.
NO_SUCH_ACTOR, STOPPED, FULL, EXPIRED, FAILED, BUSY = "no-such-actor", "stopped", "full", "expired", "failed", "busy"


def refusal_of(error: Exception) -> tuple[bool, str, str, Mapping[str, object]]:
    """Return ``problem``, ``code``, ``detail`` and ``more`` of the refusal that an error becomes."""
    if passes_to_asker(error):
        more = {name: getattr(error, name, None) for name in ("field", "fix", "status")}
        known = {name: value for name, value in more.items() if isinstance(value, str | int)}
        return True, error.code, error.detail, known  # type: ignore[attr-defined]
    match error:
        case UnknownActor():
            return False, NO_SUCH_ACTOR, str(error), {}
        case ActorStopped():
            return False, STOPPED, error.reason, {}
        case MailboxFull():
            return False, FULL, str(error), {"limit": error.limit}
        case RequestFailed():
            return False, FAILED, error.detail, {}
    return False, FAILED, f"{type(error).__name__}: {error}", {}


def error_of(refusal: Declined, name: str, request: str, timeout: float) -> Exception:
    """Return what to raise at the asker of ``request`` to the actor ``name``."""
    if refusal.problem:
        more: dict[str, Any] = {}
        for key, kind in (("field", str), ("fix", str), ("status", int)):
            if type(value := refusal.more.get(key)) is kind:
                more[key] = value
        if refusal.code == "stale-epoch":
            return StaleEpoch(refusal.detail, **more)
        return RemoteProblem(refusal.code, refusal.detail, **more)
    match refusal.code:
        case "no-such-actor":
            return UnknownActor(name)
        case "stopped":
            return ActorStopped(name, refusal.detail)
        case "full":
            limit = refusal.more.get("limit")
            return MailboxFull(name, limit if isinstance(limit, int) else 0)
        case "expired":
            return Expired(name, request, timeout)
        case "failed":
            return RequestFailed(name, request, refusal.detail)
    return Refused(name, refusal.code, refusal.detail)
