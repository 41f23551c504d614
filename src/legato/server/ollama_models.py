"""The model that is served, in the shapes that Ollama's clients look for before they ask."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request

from legato import __version__
from legato.server.admission import read_request
from legato.server.models import since
from legato.server.ollama import check_model
from legato.server.ollama_reply import OLLAMA
from legato.server.routes import Routes
from legato.server.service import Service
from legato.text.reasoning import block_of

router = Routes("Ollama", prefix="/api", dialect=OLLAMA)


root = Routes("Ollama", guarded=False)


@root.get("/")
@root.head("/", shown=False)
async def greet() -> str:
    """What programs look for that want to know whether they have found Ollama."""
    return "Ollama is running"


class OllamaShowRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    model: str | None = None
    name: str | None = None  # what older clients call it
    verbose: bool = False


SHOW_NO_EFFECT: frozenset[str] = frozenset()
SHOW_UNSUPPORTED: dict[str, tuple[Any, ...]] = {"system": ("",), "template": ("",)}


@router.get("/version")
@router.head("/version", shown=False)
async def version() -> dict[str, str]:
    return {"version": __version__}


@router.get("/tags")
@router.head("/tags", shown=False)
async def tags(service: Service) -> dict[str, Any]:
    return {"models": [{**_card(service), "modified_at": since(service)}]}


@router.get("/ps")
async def running(service: Service) -> dict[str, Any]:
    if not service.accepts:
        return {"models": []}
    card = {**_card(service), "size_vram": 0, "expires_at": "9999-12-31T23:59:59Z"}
    return {"models": [{**card, "context_length": service.engine.info.max_model_len}]}


@router.post("/show", OllamaShowRequest, SHOW_NO_EFFECT, SHOW_UNSUPPORTED)
async def show(http: Request, service: Service) -> dict[str, Any]:
    service.check_ready()
    request, _ = await read_request(http, OllamaShowRequest, SHOW_NO_EFFECT, SHOW_UNSUPPORTED)
    check_model(request.model or request.name, service)
    info = service.engine.info
    return {
        "modelfile": "",
        "parameters": "",
        "template": service.template.sources.get("default", "") if service.template else "",
        "details": _details(service),
        "model_info": {
            "general.architecture": info.architecture,
            f"{info.architecture}.context_length": info.max_model_len,
            f"{info.architecture}.vocab_size": info.vocab_size,
        },
        "capabilities": ["completion", "thinking"] if _thinks(service) else ["completion"],
        "modified_at": since(service),
    }


def _thinks(service: Service) -> bool:
    template = service.template
    return template is not None and block_of(template.sources.values()) is not None


def _card(service: Service) -> dict[str, Any]:
    name = service.model_name
    size = service.engine.info.weight_bytes if service.accepts else 0
    return {
        "name": name,
        "model": name,
        "size": size,
        "digest": "",
        "details": _details(service),
    }


def _details(service: Service) -> dict[str, Any]:
    family = service.engine.info.architecture if service.accepts else ""
    return {
        "parent_model": "",
        "format": "",
        "family": family,
        "families": [family],
        "parameter_size": "",
        "quantization_level": "",
    }
