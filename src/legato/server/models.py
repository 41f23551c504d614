"""GET /v1/models: the model that is served, as the clients of OpenAI and Mistral know it, or Anthropic's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request

from legato.server.routes import Routes
from legato.server.service import Service

router = Routes("models")


def since(service: Service) -> str:
    return datetime.fromtimestamp(service.created, UTC).isoformat().replace("+00:00", "Z")


def _card(http: Request, service: Service) -> dict[str, Any]:
    return _of_anthropic(service) if _asks_anthropic(http) else _of_openai(service)


def _asks_anthropic(http: Request) -> bool:
    """Its clients send this header with each request."""
    return "anthropic-version" in http.headers


def _of_openai(service: Service) -> dict[str, Any]:
    card = {
        "id": service.model_name,
        "object": "model",
        "created": service.created,
        "owned_by": "legato",
        "type": "base",  # Mistral's clients know no card without this and the next
        "capabilities": {"completion_chat": service.template is not None},
    }
    if service.accepts:
        card["max_model_len"] = service.engine.info.max_model_len
        card["max_context_length"] = service.engine.info.max_model_len  # Mistral's name of it
        card["architecture"] = service.engine.info.architecture
    return card


def _of_anthropic(service: Service) -> dict[str, Any]:
    name, length = (
        service.model_name,
        service.engine.info.max_model_len if service.accepts else None,
    )
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": since(service),
        "lifecycle": "active",
        "max_input_tokens": length,
        "max_tokens": length,
    }


@router.get("/v1/models")
@router.get("/v1/models/", shown=False)
@router.head("/v1/models", shown=False)
async def models(http: Request, service: Service) -> dict[str, Any]:
    card = _card(http, service)
    if not _asks_anthropic(http):
        return {"object": "list", "data": [card]}
    return {"data": [card], "has_more": False, "first_id": card["id"], "last_id": card["id"]}


@router.get("/v1/models/{name:path}")
async def model(name: str, http: Request, service: Service) -> dict[str, Any]:
    service.check_model(name)
    return _card(http, service)
