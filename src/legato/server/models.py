"""GET /v1/models: the model that is served."""

from __future__ import annotations

from typing import Any

from legato.server.routes import Routes
from legato.server.service import Service

router = Routes("models")


def _describe(service: Service) -> dict[str, Any]:
    card = {
        "id": service.model_name,
        "object": "model",
        "created": service.created,
        "owned_by": "legato",
    }
    if service.accepts:
        card["max_model_len"] = service.engine.info.max_model_len
        card["architecture"] = service.engine.info.architecture
    return card


@router.get("/v1/models")
async def models(service: Service) -> dict[str, Any]:
    return {"object": "list", "data": [_describe(service)]}


@router.get("/v1/models/{name:path}")
async def model(name: str, service: Service) -> dict[str, Any]:
    service.check_model(name)
    return _describe(service)
