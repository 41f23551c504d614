"""GET /health, which tells the truth, /version and /metrics."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from legato import __version__
from legato.server.bridge import EngineState
from legato.server.errors import json_response
from legato.server.routes import Routes
from legato.server.service import Service

router = Routes("operation", guarded=False)


@router.get("/health")
async def health(service: Service) -> Response:
    """200 when a request would be answered now, 503 while the model loads or restarts."""
    if service.ready:
        return json_response({"status": "ready"})
    status = service.engine.state if service.tokenizer is not None else EngineState.LOADING
    return json_response({"status": status}, 503)


@router.get("/version")
async def version() -> dict[str, str]:
    return {"version": __version__}


@router.get("/metrics")
async def metrics(service: Service) -> Response:
    """Prometheus metrics."""
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)
