"""Puts the control endpoint together."""

from __future__ import annotations

import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from actors.model.errors import Problem
from zeitwork.api import dispatch, problems
from zeitwork.api.deps import ApiDeps
from zeitwork.api.instrument import REQUEST_ID, Instrument
from zeitwork.api.stream import Slots
from zeitwork.api.table import ENDPOINTS
from zeitwork.metrics.exposition import Exposition
from zeitwork.metrics.http import HttpMetrics


def build_app(deps: ApiDeps) -> Starlette:
    """Return the ASGI app. One app belongs to one `zeitwork.api.server.serve`, which sets its ``state.closing``."""
    closing = trio.Event()
    exposition = Exposition(
        deps.store, deps.system, deps.node_id, deps.version, deps.scheduler, deps.members, deps.dispatcher
    )
    app = Starlette(
        routes=dispatch.routes(ENDPOINTS, deps, closing),
        middleware=[Middleware(Instrument, deps=deps, metrics=HttpMetrics(exposition.registry))],
        exception_handlers={Problem: _problem, HTTPException: _http_exception},
    )
    app.router.redirect_slashes = False
    app.state.deps = deps
    app.state.closing = closing
    app.state.slots = Slots(deps.streams)
    app.state.exec_slots = Slots(deps.streams, "sessions of exec")
    app.state.exposition = exposition
    return app


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problems.respond(error, request.scope[REQUEST_ID])


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = problems.from_status(error.status_code, request.url.path, request.method)
    return problems.respond(problem, request.scope[REQUEST_ID], dict(error.headers or {}))
