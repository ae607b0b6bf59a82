"""Hosts with real TLS on loopback, and a cluster's authority without a database."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from runtime.links.rules import Rules
from runtime.links.transport import TlsTransport
from tests.runtime.links.hosts import QUICK, Host, host
from tests.runtime.links.messages import CLUSTER
from zeitwork.store.trust import Signed, WrongToken
from zeitwork.trust import certificates
from zeitwork.trust.files import Credentials, TrustFiles
from zeitwork.trust.token import Token


class Signer:
    """Signs as the database does, for tests that are not about it."""

    def __init__(self, cluster: UUID = CLUSTER) -> None:
        self.cluster = cluster
        self.made = certificates.new_authority(cluster, certificates.now())
        self.tokens: list[Token] = []
        self.signed = 0
        self.life = certificates.HOST_LIFE

    async def authority(self) -> str:
        return self.made.certificate

    async def sign(self, host: UUID, request: bytes) -> Signed:
        self.signed += 1
        pem = certificates.sign(
            self.made, request, cluster=self.cluster, host=host, now=certificates.now(), life=self.life
        )
        return Signed(pem, self.made.certificate, self.cluster)

    async def redeem(
        self, token: UUID, secret_hash: bytes, *, host: UUID, request: bytes, remote: str, node: UUID | None = None
    ) -> Signed:
        for known in self.tokens:
            if known.id == token and hmac.compare_digest(known.secret_hash, secret_hash):
                self.tokens.remove(known)
                return await self.sign(host, request)
        raise WrongToken("the join token is not valid here", field="token")


def issue(
    directory: Path,
    number: int,
    signer: Signer,
    *,
    life: timedelta = certificates.HOST_LIFE,
    ago: timedelta = timedelta(0),
    cluster: UUID | None = None,
) -> TrustFiles:
    """Write credentials for a host."""
    files, key = TrustFiles(directory / f"trust-{number}"), certificates.new_key()
    pem = certificates.sign(
        signer.made,
        certificates.request(key),
        cluster=cluster or signer.cluster,
        host=UUID(int=number),
        now=certificates.now() - ago,
        life=life,
    )
    files.save(Credentials(key, pem, signer.made.certificate))
    return files


def transport(files: TrustFiles, cluster: UUID = CLUSTER) -> TlsTransport:
    return TlsTransport("127.0.0.1", 0, files.contexts, lambda shown: certificates.prove(shown, cluster))


@asynccontextmanager
async def secured(number: int, files: TrustFiles, *, rules: Rules = QUICK, **more: Any) -> AsyncIterator[Host]:
    """A host that speaks TLS only."""
    async with host(number, transport=transport(files), rules=rules, **more) as made:
        yield made
