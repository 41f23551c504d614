"""GET and DELETE /v1/streams/{id}: a stream goes on behind the event that its client saw last."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from legato.server.errors import json_response
from legato.server.kept_streams import number_of, resumed
from legato.server.routes import Routes
from legato.server.service import Service

router = Routes("generation")


@router.get("/v1/streams/{name}")
async def resume(name: str, http: Request, service: Service) -> Response:
    """The events behind `Last-Event-ID`; all of them without it. For answers that were asked for with
    `resume_window`."""
    stream = service.streams.get(name)
    last = http.headers.get("last-event-id")
    return resumed(stream, -1 if last is None else number_of(last, "Last-Event-ID"))


@router.delete("/v1/streams/{name}")
async def give_up(name: str, service: Service) -> Response:
    """Nobody will come back: what still grows is cancelled."""
    service.streams.drop(service.streams.get(name))
    return json_response({"id": name, "object": "stream", "deleted": True})
