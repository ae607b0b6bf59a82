"""What can go wrong between actors, as types a caller can tell apart."""

from __future__ import annotations


class ActorError(Exception):
    """Base of everything the runtime itself raises to callers."""


class MailboxFull(ActorError):
    """The receiver has as many messages queued as its mailbox holds; nothing was queued."""

    def __init__(self, name: str, limit: int) -> None:
        super().__init__(f"mailbox of {name} is full ({limit} messages)")
        self.name = name
        self.limit = limit


class ActorStopped(ActorError):
    """The life that a ref points to has ended, or ended before it answered. What it had done by then is unknown."""

    def __init__(self, name: str, reason: str = "stopped") -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


class UnknownActor(ActorStopped):
    """No actor lives under this name now: it never did, was stopped, or waits for its restart."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "no such actor now")


class AskTimeout(ActorError):
    """No answer came in time. The request is dropped if it is still queued; otherwise its outcome is unknown."""

    def __init__(self, name: str, request: str, timeout: float) -> None:
        super().__init__(f"{name} did not answer {request} within {timeout:g} s")
        self.name = name
        self.request = request
        self.timeout = timeout


class RequestFailed(ActorError):
    """The handler of a request failed. ``__cause__`` holds what it raised, when it raised."""

    def __init__(self, name: str, request: str, detail: str) -> None:
        super().__init__(f"{name} failed on {request}: {detail}")
        self.name = name
        self.request = request
        self.detail = detail


class StartFailed(ActorError):
    """An actor did not come up: its ``init`` raised (see ``__cause__``), took too long, or was stopped meanwhile."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"{name} did not start: {detail}")
        self.name = name
        self.detail = detail


class InitTimeout(ActorError):
    """``init`` took longer than ``Spec.init_timeout``."""

    def __init__(self, name: str, timeout: float) -> None:
        super().__init__(f"init of {name} took longer than {timeout:g} s")
        self.name = name
        self.timeout = timeout


class NameTaken(ActorError):
    """Another actor of this system holds the name, perhaps while it waits for its restart."""

    def __init__(self, name: str) -> None:
        super().__init__(f"an actor named {name} exists already")
        self.name = name


class RestartsExhausted(ActorError):
    """A child failed more often than its supervisor's intensity allows. ``__cause__`` is its last failure."""

    def __init__(self, supervisor: str, child: str, limit: int, within: float) -> None:
        super().__init__(f"{child} under {supervisor} failed more than {limit} times within {within:g} s")
        self.supervisor = supervisor
        self.child = child


class EffectTimeout(ActorError):
    """An effect did not end by its deadline and was cancelled."""

    def __init__(self, name: str, deadline: float) -> None:
        super().__init__(f"{name} did not end within {deadline:g} s")
        self.name = name
        self.deadline = deadline


class TooManyEffects(ActorError):
    """The actor has as many effects running as ``Spec.effects`` allows; nothing was started."""

    def __init__(self, name: str, limit: int) -> None:
        super().__init__(f"{name} has {limit} effects running already")
        self.name = name
        self.limit = limit


class SystemStopped(ActorError):
    """Nothing can be started any more: the system or the supervisor is stopping."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is stopping")
        self.name = name


class ProtocolError(ActorError):
    """A handler used its context wrongly, such as answering a request twice."""
