"""Which function answers what: written beside the functions, served by Starlette, shown in /docs.

A handler takes what it names: ``http`` (the request), ``service``, and the parameters of its path.
Whoever imports this pays for Starlette alone: a framework with models of its own takes longer to load
than a small language model.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from legato.server.admission import require_key
from legato.server.calls import check_request_id
from legato.server.dialect import Dialect
from legato.server.errors import json_response
from legato.server.protocol import NO_EFFECT, UNSUPPORTED
from legato.server.service import service_of

Handler = Callable[..., Awaitable[Any]]
Written = TypeVar("Written", bound=Handler)


@dataclass(frozen=True)
class Operation:
    """One method of one path. ``body``: what the handler reads; ``no_effect`` and ``unsupported``: the
    fields beside it that ``protocol.parse`` knows there; ``query``: the names in the query."""

    method: str
    path: str
    handler: Handler
    tag: str
    shown: bool
    guarded: bool
    body: type[msgspec.Struct] | None = None
    no_effect: frozenset[str] = NO_EFFECT
    unsupported: Mapping[str, tuple[Any, ...]] = field(default_factory=lambda: UNSUPPORTED)
    query: tuple[str, ...] = ()


class Routes:
    """The operations of a protocol. ``guarded``: the API key is asked for; ``dialect``: in which its
    errors are told, from the key's check on, if not in OpenAI's."""

    def __init__(
        self, tag: str, *, prefix: str = "", guarded: bool = True, dialect: Dialect | None = None
    ) -> None:
        self.operations: list[Operation] = []
        self._tag, self._prefix = tag, prefix
        self._guarded, self._dialect = guarded, dialect

    def get(
        self, path: str, *, shown: bool = True, query: tuple[str, ...] = ()
    ) -> Callable[[Written], Written]:
        return self._add("GET", path, shown, query=query)

    def head(self, path: str, *, shown: bool = True) -> Callable[[Written], Written]:
        return self._add("HEAD", path, shown)

    def post(
        self,
        path: str,
        body: type[msgspec.Struct] | None = None,
        no_effect: frozenset[str] = NO_EFFECT,
        unsupported: Mapping[str, tuple[Any, ...]] = UNSUPPORTED,
    ) -> Callable[[Written], Written]:
        fields = {"body": body, "no_effect": no_effect, "unsupported": unsupported}
        return self._add("POST", path, True, **fields)

    def delete(self, path: str) -> Callable[[Written], Written]:
        return self._add("DELETE", path, True)

    def _add(
        self, method: str, path: str, shown: bool, **fields: Any
    ) -> Callable[[Written], Written]:
        whole = self._prefix + path

        def add(handler: Written) -> Written:
            operation = Operation(method, whole, handler, self._tag, shown, self._guarded, **fields)
            self.operations.append(operation)
            return handler

        return add

    def served(self) -> Sequence[Route]:
        """What Starlette serves."""
        routes = []
        for operation in self.operations:
            route = Route(operation.path, self._endpoint(operation), methods=[operation.method])
            route.methods = {operation.method}  # Starlette would add HEAD to each GET
            routes.append(route)
        return routes

    def _endpoint(self, operation: Operation) -> Callable[[Request], Awaitable[Response]]:
        handler, guarded, dialect = operation.handler, self._guarded, self._dialect
        names = list(inspect.signature(handler).parameters)

        async def answer(http: Request) -> Response:
            if guarded:
                require_key(http)
                check_request_id()
            reply = await handler(*[_argument(http, name) for name in names])
            if isinstance(reply, Response):
                return reply
            return PlainTextResponse(reply) if isinstance(reply, str) else json_response(reply)

        async def answer_in_dialect(http: Request) -> Response:
            assert dialect is not None
            try:
                return await answer(http)
            except (HTTPException, ClientDisconnect):
                raise
            except Exception as error:
                return dialect.response(error)

        return answer if dialect is None else answer_in_dialect


def _argument(http: Request, name: str) -> Any:
    if name == "http":
        return http
    return service_of(http) if name == "service" else http.path_params[name]
