"""A host's first certificate where it has the database: it signs for itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

import structlog

from zeitwork.store.trust import Signed
from zeitwork.trust import certificates
from zeitwork.trust.files import Credentials, TrustFiles

_log = structlog.get_logger().bind(part="trust")


async def ensure_credentials(
    files: TrustFiles, host: UUID, sign: Callable[[UUID, bytes], Awaitable[Signed]], *, authority: str, now: float
) -> Credentials:
    """Return this host's credentials; made anew when there are none, they are not valid now, or of another authority.

    ``authority`` is the present one's certificate, ``now`` in seconds since 1970. Raises `Failed` for a file that can't
    be read, `OSError` when it can't be written, and what ``sign`` raises.
    """
    known = files.load()
    if known is not None:
        same = certificates.fingerprint(known.authority) == certificates.fingerprint(authority)
        names = certificates.named(known.certificate)
        since, until = certificates.validity(known.certificate)
        if same and since <= now < until and names is not None and names[1] == host:
            return known
        _log.info("the host gets another certificate", reason="as it is now" if same else "another authority")
    key = certificates.new_key()
    signed = await sign(host, certificates.request(key))
    made = Credentials(key, signed.certificate, signed.authority)
    files.save(made)
    return made
