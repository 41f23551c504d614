"""GET /v1/models: the model that is served."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends

from legato.server.admission import require_key
from legato.server.service import Service, ServiceOf

router = APIRouter(tags=["models"], dependencies=[Depends(require_key)])


def _describe(service: Service) -> dict[str, Any]:
    card = {
        "id": service.model_name,
        "object": "model",
        "created": service.created,
        "owned_by": "legato",
    }
    if service.ready:
        card["max_model_len"] = service.engine.info.max_model_len
        card["architecture"] = service.engine.info.architecture
    return card


@router.get("/v1/models")
async def models(service: ServiceOf) -> dict[str, Any]:
    return {"object": "list", "data": [_describe(service)]}


@router.get("/v1/models/{name:path}")
async def model(name: str, service: ServiceOf) -> dict[str, Any]:
    service.check_model(name)
    return _describe(service)
