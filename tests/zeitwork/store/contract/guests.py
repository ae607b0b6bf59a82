"""Hosts that are invited: what people, the leader and those hosts do to both stores."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import IPv4Address
from typing import Any
from uuid import UUID

from actors.registrar.invite import Outcome
from tests.zeitwork.store.contract.frame import UNKNOWN, Refs
from tests.zeitwork.store.contract.leader import Leader
from zeitwork.trust import certificates
from zeitwork.trust.token import Token

OUTCOMES = (
    Outcome(False, "nobody answers"),
    Outcome(True, ""),
    Outcome(False, "the code is wrong", final=True),
)
_REQUEST = certificates.request(certificates.new_key())
_REGION = UUID(int=98)


class Guests(Leader):
    """Invitations, from the first request to the end."""

    def invite(
        self, name: int, again: int = 0, timeout: float = 30.0, *, coded: bool = True, far: bool = False
    ) -> None:
        """Ask for a host, or with the same ``again`` ask the same once more."""
        new = UUID(int=(1 << 69) + 10 * name + again)

        def call(store: Any, refs: Refs) -> Any:
            return store.invitations.create(
                f"h{name}",
                ip_address=IPv4Address("192.0.2.7"),
                address=f"192.0.2.{name}:7946",
                code="secret" if coded else None,
                timeout=timeout,
                region_id=_REGION if far else None,
                id=new,
            )

        self.call(f"invite({name}, {again}, {timeout}, coded={coded}, far={far})", call)

    def invite_again(self, node: int) -> None:
        self.call(f"invite_again({node})", lambda store, refs: store.invitations.again(refs.pick("nodes", node)))

    def try_one(self, which: int, outcome: int, ended: int = 0, *, late: bool = False) -> None:
        """Write how one try went; ``late``: that of a request that was followed by another."""
        self._about(f"try_one({which}, {outcome}, {ended}, late={late})", which, OUTCOMES[outcome], ended, late)

    def give_up(self, which: int, ended: int = 0, *, late: bool = False) -> None:
        self._about(f"give_up({which}, {ended}, late={late})", which, "it took too long", ended, late)

    def finish(self, which: int, ended: int = 0, *, late: bool = False) -> None:
        self._about(f"finish({which}, {ended}, late={late})", which, None, ended, late)

    def _about(self, what: str, which: int, end: Outcome | str | None, ended: int, late: bool) -> None:
        term = self.term(ended)

        async def call(store: Any, refs: Refs) -> Any:
            found = await store.invitations.expected()
            if not found:
                return None
            one = found[which % len(found)]
            if late:
                object.__setattr__(one, "asked", one.asked - 5.0)
            if isinstance(end, Outcome):
                await store.invitations.tried(one, end, term)
            elif end is None:
                await store.invitations.finish(one, term)
            else:
                await store.invitations.give_up(one, end, term)
            return found

        self.call(what, call)

    def mint(self, node: int, token: int, ended: int = 0, life: float = 120.0) -> None:
        """Make a token for one node."""
        term, made = self.term(ended), _token(token)
        life_of = timedelta(seconds=life)
        self.call(
            f"mint({node}, {token}, {ended}, {life})",
            lambda store, refs: store.invitations.mint(refs.pick("nodes", node), made, life_of, term),
        )

    def redeem(self, token: int, number: int, node: int | None = None, *, right: bool = True) -> None:
        """Let the machine of that number bring a token, and say which node it was invited as."""
        made = _token(token)

        async def call(store: Any, refs: Refs) -> None:
            as_node = None if node is None or node == UNKNOWN else refs.pick("nodes", node)
            await store.trust.redeem(
                made.id,
                made.secret_hash if right else bytes(32),
                host=UUID(int=1000 + number),
                request=_REQUEST,
                remote="192.0.2.9:1",
                node=as_node,
            )

        self.call(f"redeem({token}, {number}, {node}, right={right})", call)


def _token(number: int) -> Token:
    return Token(UUID(int=(1 << 68) + number), bytes([number]) * 24, b"")
