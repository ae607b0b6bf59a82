"""Which guests of this host can be talked with: the agents' links by placement."""

from __future__ import annotations

from uuid import UUID

from actors.model.errors import Unavailable
from actors.vm.agent.link import AgentLink

#: Why a guest that an older version started can't be talked with.
OLDER = "the guest of this instance has no agent (it was started by an older version)"


class Agents:
    """The links of one host. Those who run VMs register them; whoever wants to talk with a guest gets one here."""

    def __init__(self) -> None:
        self._links: dict[UUID, AgentLink | str] = {}

    def register(self, placement_id: UUID, link: AgentLink) -> None:
        """Make ``link`` the way to the guest of a placement; an earlier one is forgotten."""
        self._links[placement_id] = link

    def register_without(self, placement_id: UUID, reason: str = OLDER) -> None:
        """Note that the guest of a placement can't be talked with, and why."""
        self._links[placement_id] = reason

    def unregister(self, placement_id: UUID, link: AgentLink | None = None) -> None:
        """Forget a placement's guest; with ``link`` only if it still is the way to it."""
        if link is None or self._links.get(placement_id) is link:
            self._links.pop(placement_id, None)

    def get(self, placement_id: UUID) -> AgentLink:
        """Return the connected link to a placement's guest. Raises `Unavailable` with the reason when there is none."""
        found = self._links.get(placement_id)
        if found is None:
            raise Unavailable(
                "the guest of this instance is not running here", code="guest-not-here", fix="see its state"
            )
        if isinstance(found, str):
            raise Unavailable(found, code="no-agent", fix="restart the instance: zeitwork stop, then zeitwork start")
        if not found.connected:
            raise Unavailable(
                f"the guest's agent is not connected: {found.reason}",
                code="guest-not-connected",
                fix="a guest that boots takes a while; try again",
            )
        return found
