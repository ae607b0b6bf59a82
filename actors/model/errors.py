"""Errors a person can act on: what is wrong, which field, and what to do about it."""

from __future__ import annotations


class Problem(Exception):
    """A refusal or failure with enough in it for the API, the CLI and the log to say the same thing.

    ``code`` is a stable kebab-case name for programs, ``detail`` one sentence for people, ``field`` the path of the
    offending input (``resources.memory``), ``fix`` what to do next, ``status`` the HTTP status the API answers with.
    """

    code = "problem"
    status = 500

    def __init__(
        self,
        detail: str,
        *,
        field: str | None = None,
        fix: str | None = None,
        code: str | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.fix = fix
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        fix = f" ({self.fix})" if self.fix else ""
        return f"{where}{self.detail}{fix}"


class InvalidInput(Problem):
    """The request can never succeed as written."""

    code = "invalid-input"
    status = 422


class NotFound(Problem):
    """The thing that the request names does not exist."""

    code = "not-found"
    status = 404


class Conflict(Problem):
    """The request contradicts the present state."""

    code = "conflict"
    status = 409


class Unavailable(Problem):
    """Something the request needs is away for now; trying again later may succeed."""

    code = "unavailable"
    status = 503


class Failed(Problem):
    """Work that was accepted could not be done; ``detail`` holds the part's own words."""

    code = "failed"
    status = 500
