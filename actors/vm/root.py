"""Waiting for the root filesystem of a machine, which may have to be fetched first."""

from __future__ import annotations

from collections.abc import Callable

import trio

from actors.images.messages import NAME, EnsureRoot
from actors.model.errors import Unavailable
from actors.model.image import RootImage
from runtime import ActorError, Environment, System

#: Seconds for the images actor to answer, be it that it is not ready yet.
ANSWER = 60.0
#: Seconds for which the images actor may be away, and between two looks for it: it may be started again meanwhile.
AWAY, LOOK = 60.0, 1.0


async def await_root(
    system: System, env: Environment, digest: str, source: str, tell: Callable[[str], None]
) -> RootImage:
    """Return the root filesystem of a manifest digest, however long it takes to fetch; ``tell`` hears how far it is.

    The images actor ends what takes too long or can't be had: raises its `Problem`, and `Unavailable` when it is away.
    """
    told = ""
    away: float | None = None
    while True:
        images = system.lookup(NAME)
        try:
            if images is None:
                raise Unavailable("the images actor is not there", fix="try again")
            answer = await images.ask(EnsureRoot(digest, source), timeout=ANSWER)
        except (ActorError, Unavailable) as error:
            if isinstance(error, Unavailable) and images is not None:
                raise  # its own word
            away = env.monotonic() if away is None else away
            if env.monotonic() - away >= AWAY:
                raise
            await trio.sleep(LOOK)
            continue
        away = None
        if isinstance(answer, RootImage):
            return answer
        if answer.reason != told:
            told = answer.reason
            tell(told)
