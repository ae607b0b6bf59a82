"""The leader's way to hosts that have not joined, for a host that may have no links."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from actors.registrar.invite import Invited, Outcome
from runtime import Environment
from runtime.lease import Term
from zeitwork.config import Config
from zeitwork.store.invitations import Invitations

if TYPE_CHECKING:
    from zeitwork.cluster import Linked


class LateInviting:
    """`actors.registrar.invite_store.Inviting`. ``linked`` is what this host's links are, None while it has none."""

    def __init__(
        self, config: Config, store: Invitations, linked: Callable[[], Linked | None], env: Environment
    ) -> None:
        self._config = config
        self._store = store
        self._linked = linked
        self._env = env

    async def invite(self, one: Invited, term: Term) -> Outcome:
        """Invite a host once; what goes wrong on the way is in the outcome."""
        linked = self._linked()
        if linked is None:
            return Outcome(False, "the host that leads has no links: run it with --advertise ADDRESS")
        # What reads certificates takes a while to import; a host with links has done so.
        from zeitwork.trust.files import TrustFiles, trust_directory
        from zeitwork.trust.inviting import Inviting

        files = TrustFiles(trust_directory(self._config.data_dir))
        return await Inviting(files, linked.address, self._store.mint, self._env.entropy).invite(one, term)
