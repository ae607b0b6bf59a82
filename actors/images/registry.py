"""A client of the OCI distribution API, as far as pulling needs it."""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self, TypeVar

import httpx
import trio

from actors.images.authorization import Authorization, denied
from actors.images.blobs import Blobs, Download
from actors.images.credentials import Credentials
from actors.images.decompress import Slice
from actors.images.digest import digest_of
from actors.images.limits import DEFAULT_LIMITS, Limits
from actors.images.manifest import ACCEPT, Descriptor, Manifest, choose, parse_document
from actors.images.problems import ImageRefused, RegistryUnavailable
from actors.images.reference import Reference, is_loopback
from actors.images.retry import DEFAULT_POLICY, RetryPolicy
from actors.model.errors import NotFound, Problem

T = TypeVar("T")
#: Seconds: to connect, between two pieces of an answer, and for a whole small answer.
CONNECT, STALL, SMALL_ANSWER = 10.0, 30.0, 60.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_BATCH = 1024 * 1024


class _Transient(Exception):
    """A failure that may pass. ``problem`` is what it becomes when it does not."""

    def __init__(self, problem: Problem, wish: float | None = None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.wish = wish


class Registry:
    """Pulls one reference's manifest and blobs; use as an async context manager.

    Every wait has a deadline, every retry an end. Redirects are followed without taking credentials to another
    host, and never from HTTPS to HTTP. All failures are `actors.model.errors.Problem`.
    """

    def __init__(
        self,
        reference: Reference,
        *,
        randomness: random.Random,
        credentials: Credentials | None = None,
        limits: Limits = DEFAULT_LIMITS,
        policy: RetryPolicy = DEFAULT_POLICY,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._reference = reference
        self._random = randomness
        self._limits = limits
        self._policy = policy
        self._base = httpx.URL(f"{reference.scheme}://{reference.api_host}/v2/{reference.repository}/")
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(STALL, connect=CONNECT),
            headers={"User-Agent": "zeitwork", "Accept-Encoding": "identity"},
            follow_redirects=False,
            verify=True if tls is None else tls,
            trust_env=not reference.is_loopback,  # proxies are for other machines
        )
        self._authorization = Authorization(self._client, reference, credentials)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with trio.move_on_after(2, shield=True):
            await self._client.aclose()

    async def resolve(self) -> tuple[str, Manifest]:
        """Return digest and content of the manifest for linux/amd64."""
        data, media_type = await self._manifest(self._reference.manifest)
        digest = digest_of(data)
        found = await trio.to_thread.run_sync(parse_document, data, media_type, self._limits)
        for _ in range(3):
            if not isinstance(found, list):
                return digest, found
            chosen = choose(found)
            digest = chosen.digest
            data, media_type = await self._manifest(digest)
            found = await trio.to_thread.run_sync(parse_document, data, media_type, self._limits)
        raise ImageRefused("the image's index leads from one index to the next", fix="push the image again")

    async def _manifest(self, reference: str) -> tuple[bytes, str]:
        async def get() -> tuple[bytes, str]:
            with trio.fail_after(SMALL_ANSWER):
                async with self._get(f"manifests/{reference}", {"Accept": ACCEPT}) as answer:
                    if answer.status_code == 404:
                        raise NotFound(
                            f"registry {self._reference.registry} has no image {self._reference}",
                            field="reference",
                            fix="check the name and the tag; the image must have been pushed",
                        )
                    self._check(answer)
                    data = await _read(answer, self._limits.manifest)
                    return data, answer.headers.get("content-type", "")

        data, media_type = await self._persist(get, lambda: False)
        if reference.startswith("sha256:") and digest_of(data) != reference:
            raise ImageRefused(
                f"the manifest that registry {self._reference.registry} sent does not match its digest {reference}",
                fix="try again; if it stays so, the registry or a proxy before it damages data",
                code="digest-mismatch",
            )
        return data, media_type

    async def blob(self, descriptor: Descriptor, blobs: Blobs, progress: Callable[[int], None]) -> Slice:
        """Return a blob, downloaded if it is not here yet and verified; ``progress`` gets counts of bytes."""
        found = await trio.to_thread.run_sync(blobs.find, descriptor.digest, descriptor.size)
        if found is not None:
            progress(descriptor.size)
            return found
        download = Download(blobs, descriptor.digest, descriptor.size)
        await trio.to_thread.run_sync(download.__enter__)
        try:
            progress(download.offset)
            if download.offset < descriptor.size:
                await self._download(descriptor, download, progress)
            return await trio.to_thread.run_sync(download.finish)
        finally:
            download.__exit__(None, None, None)

    async def _download(self, descriptor: Descriptor, download: Download, progress: Callable[[int], None]) -> None:
        start = download.offset

        def advanced() -> bool:
            nonlocal start
            if download.offset > start:
                start = download.offset
                return True
            return False

        async def get() -> None:
            headers = {"Range": f"bytes={download.offset}-"} if download.offset else {}
            async with self._get(f"blobs/{descriptor.digest}", headers) as answer:
                if answer.status_code == 404:
                    raise NotFound(
                        f"registry {self._reference.registry} lists the blob {descriptor.digest} and does not have it",
                        field="reference",
                        fix="push the image again",
                    )
                if download.offset and not _continues(answer, download.offset):
                    # It sends everything, or something else: begin again with what it does send.
                    progress(-download.offset)
                    await trio.to_thread.run_sync(download.restart)
                    if answer.status_code in (206, 416):
                        raise _Transient(self._broken("it answered a range with another one"))
                self._check(answer)
                batch = bytearray()
                async for piece in answer.aiter_raw():
                    batch += piece
                    if len(batch) >= _BATCH:
                        await _append(download, batch, progress)
                        batch = bytearray()
                await _append(download, batch, progress)
            if download.offset < descriptor.size:
                raise _Transient(self._broken("the connection ended in the middle of a blob"))

        await self._persist(get, advanced)

    async def _persist(self, action: Callable[[], Awaitable[T]], advanced: Callable[[], bool]) -> T:
        """Do ``action`` until it works; failures in a row that brought nothing end it."""
        failures = 0
        while True:
            try:
                return await action()
            except _Transient as error:
                problem, wish = error.problem, error.wish
            except (httpx.TransportError, trio.TooSlowError) as error:
                problem, wish = self._unreachable(error), None
                if _is_certificate_error(error):
                    raise problem from error
            failures = 1 if advanced() else failures + 1
            wait = self._policy.wait(failures, self._random, wish)
            if wait is None:
                raise problem
            await trio.sleep(wait)

    @asynccontextmanager
    async def _get(self, path: str, headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
        """Open an answer that is neither a redirect nor a demand for credentials."""
        answer = await self._follow(path, headers)
        if answer.status_code == 401:
            used = answer.request.headers.get("authorization")
            challenge = answer.headers.get_list("www-authenticate")
            at_registry = _origin(answer.request.url) == _origin(self._base)
            await answer.aclose()
            if not at_registry:
                raise denied(self._reference, answer.request.url.host)
            await self._authorization.obtain(challenge, used)
            answer = await self._follow(path, headers)
        try:
            if answer.status_code in (401, 403):
                raise denied(self._reference, answer.request.url.host)
            yield answer
        finally:
            with trio.move_on_after(2, shield=True):
                await answer.aclose()

    async def _follow(self, path: str, headers: dict[str, str]) -> httpx.Response:
        url = self._base.join(path)
        for _ in range(_MOST_REDIRECTS + 1):
            own = dict(headers)
            # Credentials are for the registry alone, not for the storage it sends us to.
            if self._authorization.header and _origin(url) == _origin(self._base):
                own["Authorization"] = self._authorization.header
            answer = await self._client.send(self._client.build_request("GET", url, headers=own), stream=True)
            if answer.status_code not in _REDIRECTS:
                return answer
            location = answer.headers.get("location", "")
            await answer.aclose()
            try:
                url = url.join(location)
            except (httpx.InvalidURL, ValueError):
                location = ""
            if not location or not self._is_allowed(url):
                raise RegistryUnavailable(
                    f"registry {self._reference.registry} redirects to {str(url)[:200]!r}, which is not allowed",
                    "only HTTPS is followed (plain HTTP between registries on this machine alone)",
                )
        raise RegistryUnavailable(
            f"registry {self._reference.registry} redirects more than {_MOST_REDIRECTS} times", "check the registry"
        )

    def _is_allowed(self, url: httpx.URL) -> bool:
        if url.scheme == "https":
            return True
        return url.scheme == "http" and self._reference.is_loopback and is_loopback(url.host)

    def _check(self, answer: httpx.Response) -> None:
        if answer.status_code in (200, 206):
            return
        problem = self._broken(f"it answered with status {answer.status_code}")
        if answer.status_code in _TRY_AGAIN:
            after = answer.headers.get("retry-after", "")
            raise _Transient(problem, float(after) if after.isdigit() and len(after) < 6 else None)
        raise problem

    def _broken(self, what: str) -> RegistryUnavailable:
        return RegistryUnavailable(f"registry {self._reference.registry} failed: {what}", "try again later")

    def _unreachable(self, error: Exception) -> RegistryUnavailable:
        words = _words(error)
        fix = "check the name, and that this host reaches it (DNS, firewall, proxy)"
        if _is_certificate_error(error):
            fix = "give the registry a certificate that this host trusts; plain HTTP is for registries on this machine"
        return RegistryUnavailable(f"registry {self._reference.registry} can't be reached: {words[:300]}", fix)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _continues(answer: httpx.Response, offset: int) -> bool:
    return answer.status_code == 206 and answer.headers.get("content-range", "").startswith(f"bytes {offset}-")


def _is_certificate_error(error: BaseException) -> bool:
    return any(isinstance(item, ssl.SSLCertVerificationError) for item in _causes(error))


def _causes(error: BaseException) -> list[BaseException]:
    """Return the error and what led to it, the deepest last. Libraries wrap the telling one several times."""
    found: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo and len(found) < 20:
        item = todo.pop(0)
        if item is None or item in found:
            continue
        found.append(item)
        todo.append(item.__cause__ or item.__context__)
        if isinstance(item, BaseExceptionGroup):
            todo.extend(item.exceptions)
    return found


def _words(error: BaseException) -> str:
    """Return the most telling words about a failed connection."""
    for item in reversed(_causes(error)):
        if isinstance(item, (httpx.TimeoutException, trio.TooSlowError)):
            return "no answer in time"
        if isinstance(item, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({item.verify_message})"
        if isinstance(item, OSError) and item.strerror:
            return item.strerror
    return str(error) or type(error).__name__


async def _append(download: Download, batch: bytearray, progress: Callable[[int], None]) -> None:
    if batch:
        await trio.to_thread.run_sync(download.write, batch)
        progress(len(batch))


async def _read(answer: httpx.Response, most: int) -> bytes:
    data = bytearray()
    async for piece in answer.aiter_raw():
        data += piece
        if len(data) > most:
            raise ImageRefused(f"the registry sent a document of more than {most} bytes", fix="push the image again")
    return bytes(data)
