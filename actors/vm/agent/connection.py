"""One connection to a guest's agent: its reader always drains, its writer writes frames whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import trio

from actors.model.errors import Failed, Problem, Unavailable
from actors.vm.agent.command import CommandSpec
from actors.vm.agent.conversation import (
    Answered,
    Conversation,
    Declined,
    Event,
    Granted,
    Greeted,
    Refused,
    Said,
    Started,
)
from actors.vm.agent.outbox import Outbox
from actors.vm.agent.session import Session
from actors.vm.agent.wire import PREAMBLE, VERSION, Kind, WireError

#: Bytes taken from the guest at once: a flood of the smallest frames keeps the loop for a few milliseconds at most.
_READ = 16 * 1024


@dataclass(slots=True)
class _Answer:
    """Where the answer to a request is waited for."""

    done: trio.Event = field(default_factory=trio.Event)
    payload: bytes = b""
    problem: Problem | None = None


class Connection:
    """A stream to a guest. ``heard`` is called when bytes came, ``greeted`` when it answered HELLO."""

    def __init__(
        self,
        stream: trio.SocketStream,
        token: bytes,
        *,
        lasting: bool,
        heard: Callable[[], None],
        greeted: Callable[[Greeted], None],
    ) -> None:
        self._stream = stream
        self._conversation = Conversation(token)
        self._outbox = Outbox()
        self._heard = heard
        self._greeted = greeted
        self._is_greeted = trio.Event()
        self._answers: dict[int, _Answer] = {}
        self._sessions: dict[int, Session] = {}
        self._lasting = lasting
        self._ended = ""

    async def run(self, patience: float) -> str:
        """Keep it up until it ends; return why it ended. The guest has ``patience`` seconds to answer HELLO."""
        if self._lasting:
            self._outbox.put(PREAMBLE)
        self._outbox.put(self._conversation.hello())
        reason = "its host let go of it"
        try:
            async with trio.open_nursery() as nursery:

                async def write() -> None:
                    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                        await self._outbox.write_to(self._stream)

                nursery.start_soon(write, name="agent writer")
                reason = await self._read(patience)
                nursery.cancel_scope.cancel()
        finally:
            self._end(reason)
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._stream)
        return reason

    async def request(self, kind: Kind, payload: bytes, deadline: float) -> bytes:
        """Ask and return the answer's payload.

        Raises `Unavailable` when none comes within ``deadline`` seconds, `Failed` with the guest's own words.
        """
        answer = _Answer()
        with trio.move_on_after(deadline):
            await self._outbox.room()
            self._check()
            number, data = self._conversation.request(kind, payload)
            self._answers[number] = answer
            self._outbox.put(data)
            try:
                await answer.done.wait()
            finally:
                self._answers.pop(number, None)
            if answer.problem is not None:
                raise answer.problem
            return answer.payload
        raise _silent(f"did not answer {kind.name}", deadline)

    @asynccontextmanager
    async def session(self, spec: CommandSpec, deadline: float) -> AsyncIterator[Session]:
        """Run a command; it is ended when the block is left. The guest has ``deadline`` seconds to start it.

        Raises `InvalidInput` when ``spec`` can't be sent, `Unavailable` when the guest does not answer or runs too
        many already, and `Failed` with its own words when it refuses.
        """
        session: Session | None = None
        try:
            with trio.move_on_after(deadline):
                await self._outbox.room()
                self._check()
                number, data = self._conversation.open(spec)
                session = self._sessions[number] = Session(number, self._conversation, self._outbox)
                self._outbox.put(data)
                await session.wait_started()
            if session is None or not session.is_started:
                raise _silent("did not start the command", deadline)
            yield session
        finally:
            if session is not None:
                del self._sessions[session.number]
                self._outbox.put(self._conversation.close(session.number))

    async def _read(self, patience: float) -> str:
        try:
            with trio.CancelScope(deadline=trio.current_time() + patience) as waiting:
                while True:
                    data = await self._stream.receive_some(_READ)
                    if not data:
                        return "the guest's end closed it"
                    for event in self._conversation.receive(bytes(data)):
                        if isinstance(event, Greeted) and event.version != VERSION:
                            return f"the guest speaks version {event.version} of the agent's protocol, not {VERSION}"
                        self._take(event)
                    if self._is_greeted.is_set():
                        waiting.deadline = float("inf")
                        self._heard()
        except WireError as error:
            return str(error)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            return f"it broke: {error.__cause__ or error}"
        return f"the guest did not say HELLO within {patience:g} s"

    def _take(self, event: Event) -> None:
        if isinstance(event, Greeted):
            self._is_greeted.set()
            self._greeted(event)
        elif isinstance(event, (Answered, Declined)):
            answer = self._answers.get(event.number)
            if answer is None:
                return  # nobody waits for it any more
            if isinstance(event, Declined):
                answer.problem = Failed(f"the guest: {event.text}", code="guest-refused")
            else:
                answer.payload = event.payload
            answer.done.set()
        elif (session := self._sessions.get(event.session)) is not None:
            if isinstance(event, Started):
                session.started(event.pid)
            elif isinstance(event, Refused):
                session.fail(_refusal(event.text))
            elif isinstance(event, Said):
                session.said(event.what)
            elif isinstance(event, Granted):
                session.granted()

    def _check(self) -> None:
        if self._ended:
            raise _gone(self._ended)

    def _end(self, reason: str) -> None:
        """Tell everybody who waits that nothing will come."""
        self._ended = reason
        self._outbox.close()
        for answer in self._answers.values():
            answer.problem = _gone(reason)
            answer.done.set()
        for session in self._sessions.values():
            session.fail(_gone(reason))


def _refusal(text: str) -> Problem:
    """Return what the guest's words for a command that it did not start mean."""
    if text.startswith("command not found") or text.endswith("its interpreter is not in the image"):
        return Failed(text, field="command", code="command-not-found", fix="name a program that is in the image")
    if text == "the guest is frozen" or text.startswith("too many commands"):
        return Unavailable(text, code="guest-busy", fix="try again in a moment")
    if "working directory" in text:
        return Failed(text, field="cwd", code="command-refused", fix="name a directory that is in the instance")
    if text.startswith(("the image has no user", "the image has no group", "cannot become user")):
        return Failed(text, field="user", code="command-refused", fix="name a user of the image, or a number")
    return Failed(text, field="command", code="command-refused", fix="see the command and its environment")


def _gone(reason: str) -> Unavailable:
    return Unavailable(
        f"the connection to the guest broke off: {reason}", code="guest-gone", fix="see the state of the instance"
    )


def _silent(what: str, deadline: float) -> Unavailable:
    return Unavailable(
        f"the guest {what} within {deadline:g} s",
        code="guest-silent",
        fix="see whether the instance is overloaded; try again",
    )
