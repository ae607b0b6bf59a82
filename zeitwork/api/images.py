"""Images: asked for by reference, or sent as an archive."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from starlette.responses import Response

from actors.images.reference import parse_reference
from actors.model.errors import InvalidInput, Problem
from actors.model.image import ImageConfig
from actors.model.states import ImageStatus
from zeitwork.api import spool
from zeitwork.api.call import Answer, Call
from zeitwork.api.decode import Input, decode_json, media_type, read_body, require_json
from zeitwork.api.idempotency import key_of, once
from zeitwork.api.paging import PageQuery
from zeitwork.store.problems import OutcomeUnknown
from zeitwork.store.rows import HistoryRow, ImageRow

_ARCHIVE = "an archive as `docker save` writes it, or a tar of an OCI layout"
#: Content types of an upload. What compresses it is read from its first bytes, not believed.
ARCHIVES = {
    "application/x-tar": _ARCHIVE,
    "application/x-tar+gzip": _ARCHIVE,
    "application/x-tar+zstd": _ARCHIVE,
    "application/gzip": _ARCHIVE,
    "application/zstd": _ARCHIVE,
}


class ImageQuery(PageQuery):
    """Parameters of the list of images."""

    status: ImageStatus | None = None


class NewImageQuery(Input):
    """``name`` is what an uploaded archive is called in lists."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f/]{1,200}$(?!\n)")] | None = None


class NewImage(Input):
    """An image from a registry. ``github_repo`` (with ``ref`` and ``dockerfile``) is not built yet and refused."""

    reference: Annotated[str, msgspec.Meta(max_length=512, examples=["docker.io/library/nginx:1.27"])] | None = None
    github_repo: Annotated[str, msgspec.Meta(max_length=255)] | None = None
    ref: Annotated[str, msgspec.Meta(max_length=255)] | None = None
    dockerfile: Annotated[str, msgspec.Meta(max_length=1024)] | None = None


class ImageDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """How the image says it wants to be run."""

    entrypoint: list[str]
    cmd: list[str]
    env: list[str]
    working_dir: str
    user: str
    exposed_ports: list[int]
    stop_signal: str
    labels: dict[str, str]


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image. ``size`` is its root filesystem's, in bytes; ``progress`` goes from 0 to 100 while it is made."""

    id: UUID
    source: str
    status: ImageStatus
    digest: str | None
    config: ImageDefaults | None
    size: int
    progress: int
    progress_message: str
    error: str | None
    error_field: str | None
    error_fix: str | None
    node_id: UUID | None
    used_by: int
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None


class ImagePage(msgspec.Struct, frozen=True, kw_only=True):
    """Images that are not deleted, oldest first."""

    items: list[Image]
    next_cursor: str | None


class ImageChange(msgspec.Struct, frozen=True, kw_only=True):
    """One change of an image's status."""

    at: datetime
    status: ImageStatus
    message: str
    who: str


class ImageHistory(msgspec.Struct, frozen=True, kw_only=True):
    """Every change of an image's status, oldest first."""

    items: list[ImageChange]
    next_cursor: str | None


def present(row: ImageRow) -> Image:
    """Return an image as the API shows it."""
    return Image(
        id=row.id,
        source=spool.shown_source(row.source),
        status=row.status,
        digest=row.digest,
        config=None if row.config is None else _defaults(row.config),
        size=row.size,
        progress=row.percent,
        progress_message=row.message,
        error=row.error,
        error_field=row.error_field,
        error_fix=row.error_fix,
        node_id=row.node_id,
        used_by=row.used_by,
        created_at=row.created_at,
        updated_at=row.updated_at,
        deleted_at=row.deleted_at,
    )


async def listing(call: Call) -> Answer:
    """GET /api/v1/images."""
    query: ImageQuery = call.query
    page = await call.deps.store.images.list(status=query.status, limit=query.limit, cursor=query.cursor)
    return Answer(ImagePage(items=[present(row) for row in page.items], next_cursor=page.next_cursor))


async def create(call: Call) -> Response:
    """POST /api/v1/images: JSON with a reference, or an archive as the body."""
    if media_type(call.request) in ARCHIVES:
        return await _upload(call)
    require_json(call.request)
    content = await read_body(call.request)
    body = decode_json(content, NewImage)
    query: NewImageQuery = call.query
    if query.name is not None:
        raise InvalidInput("a name belongs to an uploaded archive", field="name", fix="leave it out")
    source = _reference(body)

    async def work(token: UUID) -> Answer:
        return Answer(present(await call.deps.store.images.create(source, id=token)), status=201)

    return await once(call.deps, call.request, key_of(call.request), content, work)


async def get(call: Call) -> Answer:
    """GET /api/v1/images/{id}."""
    return Answer(present(await call.deps.store.images.get(call.id)))


async def delete(call: Call) -> Answer:
    """DELETE /api/v1/images/{id}."""
    return Answer(present(await call.deps.store.images.delete(call.id)))


async def history(call: Call) -> Answer:
    """GET /api/v1/images/{id}/history."""
    rows = await call.deps.store.images.history(call.id)
    return Answer(ImageHistory(items=[_change(row) for row in rows], next_cursor=None))


async def _upload(call: Call) -> Response:
    if call.request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(
            "the body has a content encoding",
            field="Content-Encoding",
            fix="send the compressed archive itself, without that header",
            code="unsupported-media-type",
            status=415,
        )
    key = key_of(call.request)
    query: NewImageQuery = call.query
    name = query.name or "upload"
    if len(name.encode()) > spool.NAME_LIMIT:
        raise InvalidInput(f"the name is longer than {spool.NAME_LIMIT} bytes", field="name", fix="shorten it")
    directory = call.deps.paths.spool
    async with spool.receive(call.request, directory, str(call.deps.new_id()), call.deps.upload_limit) as received:

        async def work(token: UUID) -> Answer:
            kept = received.keep(directory, token, name)
            try:
                row = await call.deps.store.images.create(spool.source_of(kept), id=token, node_id=call.deps.node_id)
            except OutcomeUnknown:
                raise  # The row may exist, and then it needs its archive. The same goes for a cancellation.
            except Exception:
                kept.unlink(missing_ok=True)
                raise
            return Answer(present(row), status=201)

        return await once(call.deps, call.request, key, received.digest, work)


def _reference(body: NewImage) -> str:
    for field in ("github_repo", "ref", "dockerfile"):
        if getattr(body, field) is not None:
            raise Problem(
                "building from a repository is not there yet",
                field=field,
                fix="build the image elsewhere and give its reference, or send the archive that docker save writes",
                code="not-implemented",
                status=501,
            )
    if body.reference is None:
        raise InvalidInput("the field 'reference' is missing", field="reference", fix="name an image of a registry")
    return str(parse_reference(body.reference))


def _change(row: HistoryRow) -> ImageChange:
    return ImageChange(at=row.at, status=row.status, message=row.message, who=row.who)


def _defaults(config: ImageConfig) -> ImageDefaults:
    return ImageDefaults(
        entrypoint=list(config.entrypoint),
        cmd=list(config.cmd),
        env=list(config.env),
        working_dir=config.working_dir,
        user=config.user,
        exposed_ports=list(config.exposed_ports),
        stop_signal=config.stop_signal,
        labels=dict(config.labels),
    )
