"""/openapi.json and /docs: the operations, the schemas of their bodies, the limits that are checked."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import msgspec
from starlette.responses import HTMLResponse

from legato import __version__
from legato.server.described import complete, responses
from legato.server.protocol import NO_EFFECT, UNSUPPORTED
from legato.server.routes import Operation, Routes

REFERENCE: Final = "#/components/schemas/{name}"
_CONVERTER: Final = re.compile(r":\w+}")  # of a path: {name:path}
_PARAMETER: Final = re.compile(r"{(\w+)}")
_PAGE: Final = """<!DOCTYPE html>
<html><head><title>Legato</title>
<link rel="stylesheet" href="https://cdn.jsdelivr.net/npm/swagger-ui-dist@5/swagger-ui.css"></head>
<body><div id="swagger-ui"></div>
<script src="https://cdn.jsdelivr.net/npm/swagger-ui-dist@5/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true})</script>
</body></html>
"""


def pages(operations: Sequence[Operation]) -> Routes:
    """The two pages that show ``operations``. The document is made when it is first asked for."""
    router = Routes("documentation", guarded=False)
    made = cache(lambda: document(operations))

    @router.get("/openapi.json", shown=False)
    async def openapi() -> dict[str, Any]:
        return made()

    @router.get("/docs", shown=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(_PAGE)

    return router


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """OpenAPI 3.1."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        if operation.shown:
            path = _CONVERTER.sub("}", operation.path)
            paths.setdefault(path, {})[operation.method.lower()] = _shown(operation, path)
    with_body = {one.body: one for one in operations if one.body is not None}
    _, schemas = msgspec.json.schema_components([*with_body], ref_template=REFERENCE)
    for body, one in with_body.items():
        complete(schemas[body.__name__], one.no_effect, one.unsupported)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Legato", "version": __version__, "description": _description()},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _shown(operation: Operation, path: str) -> dict[str, Any]:
    name = operation.handler.__name__.strip("_")
    shown: dict[str, Any] = {
        "tags": [operation.tag],
        "summary": name.replace("_", " ").capitalize(),
        "description": inspect.getdoc(operation.handler) or "",
        "operationId": re.sub(r"\W+", "_", f"{name}{path}_{operation.method.lower()}"),
        "responses": responses(
            operation.tag, has_body=operation.body is not None, guarded=operation.guarded
        ),
    }
    parameters = [_parameter(name, "path") for name in _PARAMETER.findall(path)]
    parameters += [_parameter(name, "query") for name in operation.query]
    if parameters:
        shown["parameters"] = parameters
    if operation.body is not None:
        reference = {"$ref": REFERENCE.format(name=operation.body.__name__)}
        content = {"application/json": {"schema": reference}}
        shown["requestBody"] = {"required": True, "content": content}
    return shown


def _parameter(name: str, place: str) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": {"type": "string"}}


def _description() -> str:
    return (
        "OpenAI's API with vLLM's extra fields. A conversation that ends with a message of the "
        "assistant is continued where it ends.\n\n"
        f"Accepted without effect: {', '.join(sorted(NO_EFFECT))}.\n\n"
        "Refused by name unless they ask for nothing: "
        f"{', '.join(sorted(UNSUPPORTED))}. Unknown fields are refused as well."
    )
