"""Calls: each HTTP request has an id, which its response, its log lines and its spans carry.

``X-Request-Id`` is taken from the request where it is sound, and made where there is none. The header
goes onto every response, also on errors and streams.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from legato.errors import RequestError
from legato.log_format import REQUEST_ID

LOG = logging.getLogger("legato.http")
SOUND = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
HEADER = b"x-request-id"
ANTHROPIC_HEADER, ANTHROPIC_PATH = b"request-id", "/v1/messages"
"""Where its clients look for the id instead."""
PROBES = ("/health", "/ready", "/metrics", "/version")
"""What is asked every few seconds is logged only with --log-level debug."""
NOBODY_LEFT = 499
"""Logged when the client has left before there was a status; proxies log the same."""


@dataclass(frozen=True)
class Call:
    """``problem``: why the request's own id is not used; "": it is, or there was none.
    ``trace``: its W3C headers traceparent and tracestate, as they came."""

    request_id: str = ""
    method: str = ""
    path: str = ""
    problem: str = ""
    trace: tuple[tuple[str, str], ...] = ()


NO_CALL = Call()
CALL: ContextVar[Call] = ContextVar("call", default=NO_CALL)  # of the task that serves a request


def call_of(scope: Scope) -> Call:
    given, trace = [], []
    for name, value in scope["headers"]:
        if name == HEADER:
            given.append(value)
        elif name in (b"traceparent", b"tracestate"):
            trace.append((name.decode(), value.decode("latin-1")))
    is_sound = len(given) == 1 and SOUND.fullmatch(given[0])
    problem = "" if is_sound or not given else _problem(given)
    request_id = given[0].decode() if is_sound else uuid.uuid4().hex
    return Call(request_id, scope["method"], _path(scope), problem, tuple(trace))


def _path(scope: Scope) -> str:
    """As it was sent: decoded, it may have line breaks."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.decode("ascii", "backslashreplace")


def _problem(given: list[bytes]) -> str:
    if len(given) > 1:
        return f"X-Request-Id was sent {len(given)} times"
    return "X-Request-Id must be 1 to 128 letters, digits or any of . _ : / + = @ -"


def check_request_id() -> None:
    """Raises RequestError when the request brought an id that cannot be used."""
    problem = CALL.get().problem
    if problem:
        raise RequestError(problem, "X-Request-Id")


async def serve_call(
    app: ASGIApp, scope: Scope, receive: Receive, send: Send, count: Callable[[int], None]
) -> None:
    """Serves one request with ``app``. ``count`` is told the status in the end."""
    call = call_of(scope)
    CALL.set(call)
    REQUEST_ID.set(call.request_id)
    started, status = time.monotonic(), NOBODY_LEFT
    headers = (HEADER, ANTHROPIC_HEADER) if call.path.startswith(ANTHROPIC_PATH) else (HEADER,)

    async def send_named(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            named = [(name, call.request_id.encode()) for name in headers]
            message = {**message, "headers": [*message.get("headers", ()), *named]}
        await send(message)

    try:
        await app(scope, receive, send_named)
    finally:
        count(status)
        log(call, status, time.monotonic() - started)


def log(call: Call, status: int, seconds: float) -> None:
    level = logging.DEBUG if call.path in PROBES else logging.INFO
    fields = {
        "method": call.method,
        "path": call.path,
        "status": status,
        "seconds": round(seconds, 4),
    }
    LOG.log(level, "call", extra={"fields": fields})
