"""Actors and supervision on one trio loop; links, membership and election join later. Knows nothing of VMs."""

from runtime.actor import Actor
from runtime.branch import Branch, branch
from runtime.context import Context, Periodic
from runtime.dead_letters import DeadLetter, DeadLetters
from runtime.effect import Effect
from runtime.environment import Environment, RealEnvironment, SimulatedEnvironment
from runtime.errors import (
    ActorError,
    ActorStopped,
    AskTimeout,
    EffectTimeout,
    InitTimeout,
    MailboxFull,
    NameTaken,
    ProtocolError,
    RequestFailed,
    RestartsExhausted,
    StartFailed,
    SystemStopped,
    TooManyEffects,
    UnknownActor,
)
from runtime.introspection import ActorInfo
from runtime.message import Down, Exit, Message, Request
from runtime.name import Name
from runtime.ref import LifeRef, NamedRef, Ref
from runtime.reply import Reply
from runtime.restart import Backoff, Intensity, Restart, Strategy
from runtime.spec import Spec
from runtime.supervisor import Supervisor
from runtime.system import System
from runtime.timers import Timer

__all__ = [
    "Actor",
    "ActorError",
    "ActorInfo",
    "ActorStopped",
    "AskTimeout",
    "Backoff",
    "Branch",
    "Context",
    "DeadLetter",
    "DeadLetters",
    "Down",
    "Effect",
    "EffectTimeout",
    "Environment",
    "Exit",
    "InitTimeout",
    "Intensity",
    "LifeRef",
    "MailboxFull",
    "Message",
    "Name",
    "NameTaken",
    "NamedRef",
    "Periodic",
    "ProtocolError",
    "RealEnvironment",
    "Ref",
    "Reply",
    "Request",
    "RequestFailed",
    "Restart",
    "RestartsExhausted",
    "SimulatedEnvironment",
    "Spec",
    "StartFailed",
    "Strategy",
    "Supervisor",
    "System",
    "SystemStopped",
    "Timer",
    "TooManyEffects",
    "UnknownActor",
    "branch",
]
