"""The schemas of request bodies in /openapi.json and /docs, with the limits that are checked."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from fastapi import FastAPI

from legato.sampling_params import LIMITS
from legato.server.protocol import NO_EFFECT, UNSUPPORTED

REFERENCE = "#/components/schemas/{name}"
_bodies: list[type[msgspec.Struct]] = []


def body_of(schema: type[msgspec.Struct]) -> dict[str, Any]:
    """``openapi_extra`` of a route that reads such a body itself."""
    _bodies.append(schema)
    reference = {"$ref": REFERENCE.format(name=schema.__name__)}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}
    }


def install(app: FastAPI) -> None:
    generate = app.openapi

    def with_bodies() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            _, schemas = msgspec.json.schema_components(_bodies, ref_template=REFERENCE)
            for schema in schemas.values():
                _show_limits(schema.get("properties", {}))
            document.setdefault("components", {}).setdefault("schemas", {}).update(schemas)
            document["info"]["description"] = _description()
        return app.openapi_schema or document

    app.openapi = with_bodies  # type: ignore[method-assign]


def _show_limits(properties: dict[str, dict[str, Any]]) -> None:
    for name, limit in LIMITS.items():
        for kind in properties.get(name, {}).get("anyOf", []):
            if kind.get("type") not in ("integer", "number"):
                continue
            kind["exclusiveMinimum" if limit.above else "minimum"] = limit.low
            if math.isfinite(limit.high):
                kind["maximum"] = limit.high


def _description() -> str:
    return (
        "OpenAI's API with vLLM's extra fields. A conversation that ends with a message of the "
        "assistant is continued where it ends.\n\n"
        f"Accepted without effect: {', '.join(sorted(NO_EFFECT))}.\n\n"
        "Refused by name unless they ask for nothing: "
        f"{', '.join(sorted(UNSUPPORTED))}. Unknown fields are refused as well."
    )
