"""From bytes and query strings to checked values; what does not fit is refused with the field named."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar
from uuid import UUID

import msgspec
import trio
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request

from actors.model.errors import InvalidInput, NotFound, Problem
from actors.model.names import LONGEST, LONGEST_GROUP, label_pattern, no_label

T = TypeVar("T")

#: Largest JSON body, in bytes. Environment variables are the only thing in it that grows.
JSON_LIMIT = 1024 * 1024
#: A client that sends nothing of its body for this many seconds is told so.
BODY_STALL_S = 30

_AT = re.compile(r"^(?P<what>.*?)(?: - at `(?P<key>key` in `)?(?P<path>\$[^`]*)`)?$", re.DOTALL)
#: How msgspec complains of a name, and how long that may be.
_NO_LABEL = {
    f"Expected `str` matching regex {label_pattern(longest)!r}": longest for longest in (LONGEST, LONGEST_GROUP)
}
_NAMED = re.compile(r"^Object (?:contains unknown|missing required) field `(?P<name>[^`]*)`$")


class Input(msgspec.Struct, forbid_unknown_fields=True):
    """Base of all that people send: fields that are not known are refused, since a typing error must not be silent."""


async def read_body(request: Request, limit: int = JSON_LIMIT) -> bytes:
    """Return the whole body. Raises `Problem` 413 above ``limit`` bytes and 408 when it does not arrive."""
    declared = request.headers.get("content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise too_large(limit)
    parts: list[bytes] = []
    size = 0
    async for chunk in stalling_stream(request):
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        parts.append(chunk)
    return b"".join(parts)


async def stalling_stream(request: Request, stall: float = BODY_STALL_S) -> Any:
    """Yield the chunks of the body; raises `Problem` 408 when one takes longer than ``stall`` seconds."""
    stream = request.stream().__aiter__()
    while True:
        try:
            with trio.fail_after(stall):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except trio.TooSlowError:
            raise Problem(
                "the request body did not arrive", code="request-timeout", status=408, fix="send the request again"
            ) from None
        except ClientDisconnect:
            raise Problem("the client went away while sending", code="client-closed-request", status=400) from None
        if chunk:
            yield chunk


def too_large(limit: int) -> Problem:
    """Return the refusal of a body larger than ``limit`` bytes."""
    return Problem(f"the body is larger than {limit} bytes", code="body-too-large", status=413, fix="send less")


def media_type(request: Request) -> str:
    """Return the request's content type without parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def require_json(request: Request) -> None:
    """Raise `Problem` 415 unless the body is declared as JSON (which also keeps plain HTML forms out)."""
    found = media_type(request)
    if found != "application/json":
        raise Problem(
            f"the content type {found!r} is not understood here" if found else "the body has no content type",
            field="Content-Type",
            fix="send Content-Type: application/json",
            code="unsupported-media-type",
            status=415,
        )


def decode_json(body: bytes, kind: type[T]) -> T:
    """Return ``body`` as ``kind``. Raises 400 when it is not JSON and `InvalidInput` naming the field otherwise."""
    try:
        value = msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        what = str(error) if isinstance(error, msgspec.DecodeError) else "the text is not valid UTF-8 JSON"
        raise Problem(
            f"the body is not JSON: {what}" if body else "the body is empty",
            code="malformed-json",
            status=400,
            fix="send one JSON object",
        ) from None
    _refuse_nul(value, "")
    return value


def decode_query(query: QueryParams, kind: type[T]) -> T:
    """Return the query parameters as ``kind``; unknown, doubled and ill-formed ones are refused by name."""
    pairs = query.multi_items()
    seen: dict[str, str] = {}
    for name, value in pairs:
        if name in seen:
            raise InvalidInput("the parameter is given twice", field=name, fix="give it once")
        seen[name] = value
    try:
        value_ = msgspec.convert(seen, kind, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(str(error), noun="parameter") from None
    _refuse_nul(value_, "")
    return value_


def path_id(params: Mapping[str, Any], noun: str) -> UUID:
    """Return the id in the path. Raises `NotFound` when it is none, since nothing can have it."""
    text = str(params["id"])
    try:
        identifier = UUID(text)
    except ValueError:
        identifier = None
    if identifier is None or str(identifier) != text.lower():
        raise NotFound(f"{text!r} is not an id, so there is no such {noun}", field="id", fix=f"list the {noun}s first")
    return identifier


def invalid(message: str, noun: str = "field") -> InvalidInput:
    """Return msgspec's complaint in our words, with the path of the field: ``resources.vcpu``, ``command[1]``."""
    match = _AT.match(message)
    what, path = (match["what"], match["path"] or "$") if match else (message, "$")
    field = path.removeprefix("$").lstrip(".").replace("[...]", "")
    named = _NAMED.match(what)
    if named:
        field = f"{field}.{named['name']}".lstrip(".")
        if "unknown" in what:
            return InvalidInput(
                f"there is no {noun} {field!r}", field=field, fix="see /openapi.json for those there are"
            )
        return InvalidInput(f"the {noun} {field!r} is missing", field=field, fix="add it")
    if what in _NO_LABEL:
        return no_label(field, _NO_LABEL[what])
    if match and match["key"]:
        return InvalidInput(f"a name in {field!r} is not allowed: {_lower(what)}", field=field, fix="rename it")
    return InvalidInput(_lower(what), field=field or None, fix=f"see /openapi.json for what the {noun} may be")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _refuse_nul(value: object, path: str) -> None:
    """Refuse zero bytes in text: neither the database nor a guest's environment can hold one."""
    children: Iterable[tuple[str, object]]
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidInput("a zero byte is not allowed in text", field=path or None)
        return
    if isinstance(value, msgspec.Struct):
        children = ((name, getattr(value, name)) for name in value.__struct_fields__)
    elif isinstance(value, dict):
        for key in value:
            _refuse_nul(key, path)
        children = ((str(key), item) for key, item in value.items())
    elif isinstance(value, (list, tuple)):
        children = ((f"[{index}]", item) for index, item in enumerate(value))
    else:
        return
    for name, item in children:
        _refuse_nul(item, f"{path}{name}" if name.startswith("[") else f"{path}.{name}".lstrip("."))
