"""What /openapi.json says of bodies and answers beyond the schemas' types: as true as what is served."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from legato.sampling_params import LIMITS

Schema = dict[str, Any]

STATUSES: Final = {
    400: "The request is wrong; the message names the field",
    401: "The API key is missing or wrong",
    404: "The model, response or stream is not here",
    408: "The request's own timeout is over, or it did not arrive in time",
    413: "The body is too large",
    415: "The body is not JSON",
    429: "Too many requests, or the queue is full",
    500: "The engine failed",
    503: "Not ready",
}
_TEXT: Final = {"type": "string"}
_OPTIONAL_TEXT: Final = {"type": ["string", "null"]}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": [*properties]}


OPENAI_ERROR: Final = _object(
    error=_object(message=_TEXT, type=_TEXT, param=_OPTIONAL_TEXT, code=_OPTIONAL_TEXT)
)
ANTHROPIC_ERROR: Final = _object(type={"const": "error"}, error=_object(type=_TEXT, message=_TEXT))
OLLAMA_ERROR: Final = _object(error=_TEXT)
ERRORS: Final = {"Anthropic": ANTHROPIC_ERROR, "Ollama": OLLAMA_ERROR}
"""By tag; all others have OpenAI's."""

STREAMS: Final = {"Ollama": "application/x-ndjson"}
"""By tag; all others stream server-sent events."""


def responses(tag: str, *, has_body: bool, guarded: bool) -> dict[str, Schema]:
    """Of an operation: the statuses it may have, and their bodies."""
    kinds = ["application/json"]
    if not guarded:
        kinds += ["text/plain", "text/html"]
    else:
        kinds.append(STREAMS.get(tag, "text/event-stream"))
    found = {"200": {"description": "The answer", "content": {kind: {} for kind in kinds}}}
    if not guarded:
        unready = {"description": STATUSES[503], "content": {"application/json": {}}}
        return {**found, "503": unready}
    for status, description in STATUSES.items():
        if has_body or status not in (408, 413, 415):
            # The path's own 404, of what has no route, is OpenAI's everywhere.
            schema = {"anyOf": [ERRORS.get(tag, OPENAI_ERROR), OPENAI_ERROR]}
            content = {"application/json": {"schema": schema}}
            found[str(status)] = {"description": description, "content": content}
    return found


def complete(
    schema: Schema, no_effect: frozenset[str], unsupported: Mapping[str, tuple[Any, ...]]
) -> None:
    """Adds to a body's schema the fields that are not in its type, the limits, and that null is the
    same as leaving a field out."""
    properties: dict[str, Schema] = schema.setdefault("properties", {})
    required = schema.get("required", [])
    for name, shown in properties.items():
        _show_limits(name, shown)
        if name not in required and not _allows_null(shown):
            properties[name] = {"anyOf": [shown, {"type": "null"}]}
    for name in no_effect:
        properties.setdefault(name, {"description": "Accepted without effect."})
    for name, values in unsupported.items():
        allowed = {"enum": [*values, None]}
        properties.setdefault(name, {**allowed, "description": "Not supported by this version."})


def _allows_null(shown: Schema) -> bool:
    kinds = [shown, *shown.get("anyOf", [])]
    return not shown or any(kind.get("type") == "null" for kind in kinds) or _is_any(shown)


def _is_any(shown: Schema) -> bool:
    return not {"type", "anyOf", "$ref", "enum", "allOf", "oneOf"} & shown.keys()


def _show_limits(name: str, shown: Schema) -> None:
    limit = LIMITS.get(name)
    for kind in shown.get("anyOf", []):
        if limit is None or kind.get("type") not in ("integer", "number"):
            continue
        kind["exclusiveMinimum" if limit.above else "minimum"] = limit.low
        if math.isfinite(limit.high):
            kind["maximum"] = limit.high
