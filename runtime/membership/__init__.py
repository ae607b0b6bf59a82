"""Who is there: SWIM with Lifeguard's extensions as a state machine, and the actor that runs it over links."""

from runtime.membership.claim import Claim, Profile, State, join
from runtime.membership.events import Member, Notice, Peer, Superseded
from runtime.membership.machine import Machine
from runtime.membership.rules import Rules
from runtime.membership.wire import Garbled, UnknownKind

__all__ = [
    "Claim",
    "Garbled",
    "Machine",
    "Member",
    "Notice",
    "Peer",
    "Profile",
    "Rules",
    "State",
    "Superseded",
    "UnknownKind",
    "join",
]
