"""The FastAPI application: one router for each protocol, one service behind all of them."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from legato import __version__
from legato.server import (
    anthropic,
    errors,
    health,
    metrics,
    models,
    ollama,
    ollama_models,
    openai_chat,
    openai_completions,
    openapi,
    responses,
    tokenize,
)
from legato.server.service import Service


def build_app(service: Service) -> FastAPI:
    app = FastAPI(title="Legato", version=__version__)
    app.state.service = service
    generation = (openai_chat, openai_completions, responses, anthropic, ollama)
    for room in (*generation, models, ollama_models, tokenize, health, metrics):
        app.include_router(room.router)
    app.include_router(ollama_models.root)
    errors.install(app)
    openapi.install(app)
    origins = [origin.strip() for origin in service.config.cors_origins.split(",")]
    if any(origins):
        app.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"]
        )
    return app
