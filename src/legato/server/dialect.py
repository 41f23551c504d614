"""How a protocol tells its errors: as the body of a response, and as the last event of a stream."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import msgspec
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from legato.server.errors import describe, json_response

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


@dataclass(frozen=True)
class Dialect:
    describe: Callable[[Exception], tuple[int, Any]]  # HTTP status and body
    frame: Callable[[Any], bytes]  # that body as the last event of a stream
    media_type: str = "text/event-stream"

    def response(self, error: Exception) -> Response:
        status, body = self.describe(error)
        return json_response(body, status)

    def route_class(self) -> type[APIRoute]:
        """For routers whose errors, from the key's check on, are told in this dialect."""
        dialect = self

        class DialectRoute(APIRoute):
            def get_route_handler(self) -> Handler:
                handle = super().get_route_handler()

                async def handler(http: Request) -> Response:
                    try:
                        return await handle(http)
                    except (HTTPException, ClientDisconnect):
                        raise
                    except Exception as error:
                        return dialect.response(error)

                return handler

        return DialectRoute


OPENAI = Dialect(describe, lambda body: b"data: " + msgspec.json.encode(body) + b"\n\n")
