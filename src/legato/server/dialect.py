"""How a protocol tells its errors: as the body of a response, and as the last event of a stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.responses import Response

from legato.server.errors import describe, json_response


@dataclass(frozen=True)
class Dialect:
    describe: Callable[[Exception], tuple[int, Any]]  # HTTP status and body
    frame: Callable[[Any], bytes]  # that body as the last event of a stream
    media_type: str = "text/event-stream"

    def response(self, error: Exception) -> Response:
        status, body = self.describe(error)
        return json_response(body, status, getattr(error, "headers", None))


OPENAI = Dialect(describe, lambda body: b"data: " + msgspec.json.encode(body) + b"\n\n")
