"""What can go wrong between hosts: on a connection (`FrameError`), and with what was said over it."""

from __future__ import annotations

from runtime.errors import ActorError, ActorStopped, AskTimeout, MailboxFull, ProtocolError


class FrameError(Exception):
    """The peer broke the rules of a link, which is closed. ``str`` is the reason for the log."""

    #: Short and stable, said to the peer in the goodbye.
    code = "bad-frame"


class Garbage(FrameError):
    """What came is no frame of ours: no CBOR, forbidden CBOR, or fields of the wrong kind."""

    code = "garbage"


class Oversize(FrameError):
    """A frame is larger than frames may be."""

    code = "oversize"


class OutOfTurn(FrameError):
    """A frame that has no place here: before the hello, a second hello, bulk data on a control connection."""

    code = "out-of-turn"


class WrongCluster(FrameError):
    """The peer belongs to another cluster."""

    code = "wrong-cluster"


class Incompatible(FrameError):
    """No version of the protocol is spoken by both."""

    code = "incompatible"


class WrongPeer(FrameError):
    """The peer is not who was dialled, not who its certificate names, ourselves, or an earlier life of its host."""

    code = "wrong-peer"


class Unsendable(ProtocolError):
    """A message has no wire name, a field that can't be sent, or is too large: a fault of the sender's code."""


class QueueFull(MailboxFull):
    """So much waits for the peer already that nothing more was queued."""


class Unreachable(ActorError):
    """There is no link to the host, or it broke. ``sent`` False: surely not carried out; True: nobody knows.

    ``refused``: its machine answered that nobody listens there.
    """

    def __init__(self, host: str, why: str, *, sent: bool, refused: bool = False) -> None:
        super().__init__(f"host {host} is not reachable: {why}")
        self.host = host
        self.why = why
        self.sent = sent
        self.refused = refused


class Expired(AskTimeout):
    """The deadline had passed when the request's turn came on the other host: it was not carried out."""


class StaleIdentity(ActorStopped):
    """The host has been started anew since the ref to it was made."""


class Refused(ActorError):
    """The other host does not take this message: its type is unknown there, unreadable, or too many are in work."""

    def __init__(self, name: str, code: str, detail: str) -> None:
        super().__init__(f"{name} refused ({code}): {detail}")
        self.name = name
        self.code_of_refusal = code
        self.detail_of_refusal = detail


class RemoteProblem(Exception):
    """What a handler on another host answered with instead of a value: made for the asker, so it passes on as it is.

    Has the attributes of the error that was raised there.
    """

    def __init__(
        self, code: str, detail: str, *, field: str | None = None, fix: str | None = None, status: int = 500
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.field = field
        self.fix = fix
        self.status = status

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        fix = f" ({self.fix})" if self.fix else ""
        return f"{where}{self.detail}{fix}"


class StaleEpoch(RemoteProblem):
    """A command of a leader whose time is over; a handler raises it, also when it is not asked from afar."""

    def __init__(self, detail: str, *, field: str | None = None, fix: str | None = None, status: int = 409) -> None:
        super().__init__("stale-epoch", detail, field=field, fix=fix, status=status)
