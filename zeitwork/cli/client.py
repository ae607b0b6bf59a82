"""The CLI's side of the control endpoint."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from actors.model.errors import Failed, InvalidInput, NotFound, Problem, Unavailable
from zeitwork.config import DEFAULT_RUN_DIR

#: Seconds to wait for an answer to one request; long work is waited for by asking again, not by a long request.
TIMEOUT = 30.0


class Client:
    """Talks to one host over its unix socket, or over loopback HTTP when a URL is given."""

    def __init__(self, socket: Path | None = None, url: str | None = None) -> None:
        url = os.environ.get("ZEITWORK_URL") if url is None else url
        chosen = socket or Path(os.environ.get("ZEITWORK_SOCKET") or DEFAULT_RUN_DIR / "zeitwork.sock")
        self.where = url or str(chosen)
        #: The unix socket it talks through, None when a URL was given.
        self.socket = None if url else chosen
        transport = None if url else httpx.HTTPTransport(uds=str(chosen))
        self._http = httpx.Client(base_url=url or "http://localhost", transport=transport, timeout=TIMEOUT)

    def close(self) -> None:
        """Close connections."""
        self._http.close()

    def get(self, path: str, **params: Any) -> Any:
        """Return the JSON at ``path``."""
        return self._json(self._send("GET", path, params={k: v for k, v in params.items() if v is not None}))

    def post(self, path: str, body: Any = None, *, key: str | None = None, timeout: float = TIMEOUT) -> Any:
        """Send JSON; ``key`` makes a repeated request safe. ``timeout`` in seconds, for work that takes long."""
        headers = {"Idempotency-Key": key} if key else None
        return self._json(self._send("POST", path, json=body, headers=headers, timeout=timeout))

    def put(self, path: str, body: Any) -> Any:
        """Replace what is at ``path``."""
        return self._json(self._send("PUT", path, json=body))

    def delete(self, path: str, **params: Any) -> Any:
        """Delete what is at ``path``."""
        return self._json(self._send("DELETE", path, params={k: v for k, v in params.items() if v is not None}))

    def upload(self, path: str, content: Iterable[bytes], **params: Any) -> Any:
        """Send an archive as it is read; the host may take its time to spool it."""
        headers = {"Content-Type": "application/x-tar"}
        clean = {k: v for k, v in params.items() if v is not None}
        timeout = httpx.Timeout(TIMEOUT, read=300, write=300)
        return self._json(self._send("POST", path, content=content, headers=headers, params=clean, timeout=timeout))

    def pages(self, path: str, **params: Any) -> Iterator[Any]:
        """Yield every item of a list, page after page."""
        cursor: str | None = None
        while True:
            page = self.get(path, cursor=cursor, limit=200, **params)
            yield from page["items"]
            cursor = page.get("next_cursor")
            if not cursor:
                return

    @contextmanager
    def stream(self, path: str, **params: Any) -> Iterator[Iterator[bytes]]:
        """Yield the body of a long answer in pieces as they come."""
        clean = {k: v for k, v in params.items() if v is not None}
        timeout = httpx.Timeout(TIMEOUT, read=None)
        with self._reach(), self._http.stream("GET", path, params=clean, timeout=timeout) as response:
            if response.is_error:
                response.read()
                raise _problem(response)
            yield response.iter_raw()

    def instance(self, name: str, *, gone: bool = False) -> Any:
        """Return the instance with this name, id, or unambiguous beginning or end of an id.

        With ``gone`` one that was removed, too, the last that had the name, if none that is there is meant.
        """
        listing = "zeitwork ps --all" if gone else "zeitwork ps"
        try:
            return self._find("/api/v1/instances", name, "instance", listing, ("name",))
        except NotFound:
            if gone:
                with suppress(NotFound):
                    return self._find("/api/v1/instances", name, "instance", listing, ("name",), all="true")
            if (group := self.group_called(name)) is None:
                raise
            found = [one["name"] for one in self.pages("/api/v1/instances") if one.get("group_id") == group["id"]]
            raise InvalidInput(
                f"{group['name']} is a group of instances",
                field="instance",
                fix=f"name one of them: {', '.join(sorted(found)[:5])}"
                if found
                else "zeitwork groups says why none is there",
            ) from None

    def image(self, name: str) -> Any:
        """Return the image with this id, source, or digest, or an unambiguous part of one."""
        return self._find("/api/v1/images", name, "image", "zeitwork images", ("source", "digest", "name"))

    def snapshot(self, name: str) -> Any:
        """Return the snapshot with this id or label, or unambiguous beginning or end of an id."""
        return self._find("/api/v1/snapshots", name, "snapshot", "zeitwork snapshots", ("name",), unique=True)

    def node(self, name: str) -> Any:
        """Return the node with this hostname, id, or unambiguous beginning or end of an id."""
        return self._find("/api/v1/nodes", name, "node", "zeitwork nodes", ("hostname",), unique=True)

    def group(self, name: str) -> Any:
        """Return the group with this name, id, or unambiguous beginning or end of an id."""
        return self._find("/api/v1/groups", name, "group", "zeitwork groups", ("name",))

    def group_called(self, name: str) -> Any:
        """Return the group with exactly this name or id, None when it is nobody's.

        Raises `InvalidInput` when an instance has that name too.
        """
        try:
            found = [one for one in self.pages("/api/v1/groups") if name in (one["id"], one["name"])]
        except Problem as problem:
            if problem.status != 404:
                raise
            return None  # a host of before there were groups
        if found and any(one["name"] == name for one in self.pages("/api/v1/instances")):
            raise InvalidInput(
                f"an instance and a group are called {name!r}", field="instance", fix="give the id of one of them"
            )
        return found[0] if found else None

    def _find(
        self,
        path: str,
        name: str,
        noun: str,
        listing: str,
        keys: tuple[str, ...],
        *,
        unique: bool = False,
        **params: Any,
    ) -> Any:
        if not name.strip():
            raise InvalidInput("must not be empty", field=noun)
        items = list(self.pages(path, **params))
        exact = [i for i in items if name == i["id"] or any(i.get(k) == name for k in keys)]
        if exact and (len(exact) == 1 or not unique):
            return exact[-1]
        if exact:
            raise InvalidInput(f"{len(exact)} {noun}s are called {name!r}", field=noun, fix="give the id of one")
        near = [i for i in items if len(name) >= 4 and (i["id"].startswith(name) or i["id"].endswith(name))]
        if len(near) == 1:
            return near[0]
        if near:
            raise InvalidInput(f"{name!r} fits {len(near)} {noun}s", field=noun, fix="give more of the id")
        raise NotFound(f"there is no {noun} {name!r}", field=noun, fix=f"{listing} lists what there is")

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        with self._reach():
            response = self._http.request(method, path, **more)
        if response.is_error:
            raise _problem(response)
        return response

    @contextmanager
    def _reach(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            if "Permission denied" in str(error):
                raise Unavailable(
                    f"{self.where} may not be opened by this user",
                    fix="use sudo, or join the group: usermod -aG zeitwork $USER",
                ) from None
            raise Unavailable(f"no host answers at {self.where}", fix="start one with: zeitwork run") from None
        except httpx.TimeoutException:
            raise Unavailable(f"the host at {self.where} did not answer in time", fix="see its log") from None
        except httpx.HTTPError as error:
            raise Unavailable(f"the host at {self.where} broke off: {error}", fix="try again; see its log") from None

    @staticmethod
    def _json(response: httpx.Response) -> Any:
        return response.json() if response.content else None


def _problem(response: httpx.Response) -> Problem:
    """Return the error that a problem+json answer carries."""
    try:
        body = response.json()
    except ValueError:
        return Failed(f"the host answered {response.status_code}: {response.text[:200]}")
    return Failed(
        str(body.get("detail") or body.get("title") or response.status_code),
        field=body.get("field"),
        fix=body.get("fix"),
        code=body.get("code"),
        status=response.status_code,
    )


def quoted(identifier: str) -> str:
    """Return an identifier as one path segment."""
    return quote(identifier, safe="")
