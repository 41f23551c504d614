"""GET /health, which tells the truth, and /version."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from legato import __version__
from legato.server.bridge import EngineState
from legato.server.errors import json_response
from legato.server.service import ServiceOf

router = APIRouter(tags=["operation"])


@router.get("/health")
async def health(service: ServiceOf) -> Response:
    """200 when a request would be answered now, 503 while the model loads or restarts."""
    if service.ready:
        return json_response({"status": "ready"})
    status = service.engine.state if service.tokenizer is not None else EngineState.LOADING
    return json_response({"status": status}, 503)


@router.get("/version")
async def version() -> dict[str, str]:
    return {"version": __version__}
