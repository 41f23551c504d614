"""The ASGI application: the routes of each protocol, one service behind all of them."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send

from legato.server import (
    anthropic,
    errors,
    health,
    models,
    ollama,
    ollama_models,
    openai_chat,
    openai_completions,
    openapi,
    responses,
    streams,
    tokenize,
)
from legato.server.calls import serve_call
from legato.server.routes import Routes
from legato.server.service import Service


class App(Starlette):
    """With an id for each request, outside of everything that may go wrong."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        service: Service = self.state.service

        def count(status: int) -> None:
            service.metrics.responses.labels(str(status)).inc()

        try:
            await serve_call(super().__call__, scope, receive, send, count)
        finally:
            service.bodies.give_back(scope.get("state", {}).get("held", 0))


def build_app(service: Service) -> Starlette:
    rooms: list[Routes] = [
        room.router
        for room in (openai_chat, openai_completions, responses, anthropic, ollama)
        + (models, ollama_models, tokenize, streams, health)
    ]
    rooms.append(ollama_models.root)
    rooms.append(openapi.pages([operation for room in rooms for operation in room.operations]))
    app = App(routes=[route for room in rooms for route in room.served()])
    app.state.service = service
    errors.install(app)
    origins = [origin.strip() for origin in service.config.cors_origins.split(",")]
    if any(origins):
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "request-id", "x-stream-id"],
        )
    return app
