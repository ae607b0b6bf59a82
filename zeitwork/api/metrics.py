"""`/metrics`."""

from __future__ import annotations

from starlette.responses import Response

from zeitwork.api.call import Call
from zeitwork.metrics.exposition import CONTENT_TYPE, Exposition


async def metrics(call: Call) -> Response:
    """GET /metrics."""
    exposition: Exposition = call.request.app.state.exposition
    return Response(await exposition.render(), media_type=CONTENT_TYPE)
