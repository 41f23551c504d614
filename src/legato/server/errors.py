"""The one place that maps the exception tree to HTTP: status, type and code in OpenAI's shape."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from legato.errors import (
    ConfigError,
    ContextLengthError,
    DeadlineError,
    EngineDeadError,
    EngineError,
    LegatoError,
    ModelError,
    RepeatedDeathError,
    RequestError,
)

log = logging.getLogger("legato.server")


class UnauthorizedError(RequestError):
    """The API key is missing or wrong."""


class ModelNotFoundError(RequestError):
    """The request names a model that is not served here."""


class ResponseNotFoundError(RequestError):
    """No such response is stored; it may have had to make room for newer ones."""


class StreamNotFoundError(RequestError):
    """No such stream is kept, or not that much of it."""


class PreviousResponseNotFoundError(RequestError):
    """A request wants to go on from a response that is not stored."""


class BodyTooLargeError(RequestError):
    """The body exceeds ``max_body_bytes``."""


class MediaTypeError(RequestError):
    """The body says of itself that it is not JSON, or compressed."""


class TooManyRequestsError(EngineError):
    """The queue is full, or the client asks for more than it may; ``wait``: seconds until it is worth
    another try."""

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(message)
        self.headers = {"Retry-After": str(math.ceil(wait))}


class NotReadyError(EngineError):
    """The model is still loading, or the engine is being restarted."""


# The first class that matches decides: (class, status, type, code).
MAPPING: tuple[tuple[type[Exception], int, str, str | None], ...] = (
    (UnauthorizedError, 401, "authentication_error", "invalid_api_key"),
    (ModelNotFoundError, 404, "invalid_request_error", "model_not_found"),
    (ResponseNotFoundError, 404, "invalid_request_error", "response_not_found"),
    (StreamNotFoundError, 404, "invalid_request_error", "stream_not_found"),
    (PreviousResponseNotFoundError, 400, "invalid_request_error", "previous_response_not_found"),
    (BodyTooLargeError, 413, "invalid_request_error", "body_too_large"),
    (MediaTypeError, 415, "invalid_request_error", "unsupported_media_type"),
    (ContextLengthError, 400, "invalid_request_error", "context_length_exceeded"),
    (RequestError, 400, "invalid_request_error", None),
    (TooManyRequestsError, 429, "rate_limit_error", "rate_limit_exceeded"),
    (DeadlineError, 408, "timeout_error", "timeout"),
    (NotReadyError, 503, "server_error", "not_ready"),
    (RepeatedDeathError, 500, "server_error", "engine_died_repeatedly"),
    (EngineDeadError, 500, "server_error", "engine_died"),
    (EngineError, 500, "server_error", "engine_error"),
    (ModelError, 500, "server_error", "model_error"),
    (ConfigError, 500, "server_error", "config_error"),
)
HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    408: {"X-Should-Retry": "false"},  # OpenAI's clients would ask again
    503: {"Retry-After": "1"},
}


def describe(error: Exception) -> tuple[int, dict[str, Any]]:
    """HTTP status and body of an exception. What we did not raise on purpose stays in the log."""
    for kind, status, error_type, code in MAPPING:
        if isinstance(error, kind):
            field = getattr(error, "field", None)
            field = None if field is None else shortened(field, 200)
            return status, shape(shortened(str(error), 1000), error_type, field, code)
    log.error("unexpected error", exc_info=error)
    return 500, shape("internal error; the server's log has the details", "server_error")


def shortened(text: str, most: int) -> str:
    """Messages quote what clients sent, which may be megabytes; its beginning and end say enough."""
    if len(text) <= most:
        return text
    return f"{text[: most * 3 // 4]} ... {text[-most // 4 :]}"


def shape(
    message: str, error_type: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    return {"error": {"message": message, "type": error_type, "param": param, "code": code}}


def error_response(error: Exception) -> Response:
    status, body = describe(error)
    return json_response(body, status, getattr(error, "headers", None))


def json_response(
    body: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """``headers``: None for those that belong to the status."""
    headers = HEADERS.get(status) if headers is None else headers
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")


async def _on_legato_error(request: Request, error: Exception) -> Response:
    return error_response(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{error.detail}: {request.method} {request.url.path}"
    response = json_response(shape(message, "invalid_request_error"), error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _on_disconnect(request: Request, error: Exception) -> Response:
    """Nobody is there to be told; the status is the one that proxies log for this."""
    return Response(status_code=499)


def install(app: Starlette) -> None:
    app.add_exception_handler(LegatoError, _on_legato_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_legato_error)
