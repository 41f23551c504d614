"""GET /health and /ready, which tell the truth, /version and /metrics."""

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
@router.head("/health", shown=False)
async def health(service: Service) -> Response:
    """200 while the server lives: whoever restarts it at a 503 loses nothing. 503: no engine can be
    started."""
    status = service.status
    return json_response({"status": status}, 503 if status == EngineState.DEAD else 200)


@router.get("/ready")
@router.head("/ready", shown=False)
async def ready(service: Service) -> Response:
    """200 when a request would be answered now. 503: ask another server, if there is one."""
    status = service.status
    return json_response({"status": status}, 200 if status == EngineState.READY else 503)


@router.get("/version")
async def version() -> dict[str, str]:
    return {"version": __version__}


@router.get("/metrics")
async def metrics(service: Service) -> Response:
    """Prometheus metrics."""
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)
