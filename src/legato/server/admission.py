"""Who may ask, and how much they may send: the API key and the size of the body."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request

from legato.errors import RequestError
from legato.server.asker import ASKER, Asker, note_body
from legato.server.bodies import SMALL
from legato.server.errors import BodyTooLargeError, MediaTypeError, UnauthorizedError
from legato.server.extremes import check_extremes, check_parts
from legato.server.protocol import NO_EFFECT, UNSUPPORTED, Schema, parse
from legato.server.service import service_of

JSON_NAMES = frozenset(
    {"", "application/json", "text/json", "text/plain"}
    | {"application/x-www-form-urlencoded", "application/octet-stream"}
)


def require_key(http: Request) -> None:
    """Raises UnauthorizedError unless the bearer token, or Anthropic's x-api-key, is one of the keys,
    and notes who asks."""
    keys = service_of(http).config.api_keys
    address = http.client.host if http.client is not None else ""
    ASKER.set(Asker(f"address {address}"))
    if not keys:
        return
    scheme, _, token = http.headers.get("authorization", "").partition(" ")
    given = [token] if scheme.lower() == "bearer" else []
    given += http.headers.getlist("x-api-key")
    # Compared in constant time: the answer's delay must not tell how much of a guess was right.
    right = [
        number
        for number, key in enumerate(keys)
        if any([hmac.compare_digest(guess.encode("latin-1"), key.encode()) for guess in given])
    ]
    if not right:
        raise UnauthorizedError("a valid API key is needed: Authorization: Bearer <key>")
    if len(keys) > 1:
        ASKER.set(Asker(f"key {right[0]}"))


def _check_media(http: Request) -> None:
    """JSON may be called what curl and browsers call it unasked, but not something else."""
    encoding = http.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise MediaTypeError(f"the body has Content-Encoding {encoding!r}; it must have none")
    named = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if named not in JSON_NAMES and not named.endswith("+json"):
        raise MediaTypeError(f"the body has Content-Type {named!r}; it must be application/json")


async def read_request(
    http: Request,
    schema: type[Schema],
    no_effect: frozenset[str] = NO_EFFECT,
    unsupported: Mapping[str, tuple[Any, ...]] = UNSUPPORTED,
) -> tuple[Schema, int]:
    """What the body asks for (``protocol.parse``) and the body's size in bytes.

    400, 413, 415 or 429 if there is nothing to be had. What the body says besides is forgotten.
    """
    _check_media(http)
    body = await _read(http)
    return parse(_object(body), schema, no_effect, unsupported), len(body)


async def _read(http: Request) -> bytearray:
    """The body, when there is room for it (``service.bodies``)."""
    service, body = service_of(http), bytearray()
    limit = service.config.max_body_bytes
    too_large = BodyTooLargeError(f"the request body is larger than {limit} bytes")
    size = int(http.headers.get("content-length") or 0)
    if size > limit:
        raise too_large
    if size > SMALL:
        http.state.held = await service.bodies.take(size)
    async for part in http.stream():
        body += part
        if len(body) > limit:
            raise too_large
        if len(body) > SMALL and not hasattr(http.state, "held"):  # it did not say how large it is
            http.state.held = await service.bodies.take(limit)
    return body


def _object(body: bytearray) -> dict[str, Any]:
    check_parts(body)
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"the body is not valid JSON: {error}") from None
    except RecursionError:
        raise RequestError("the body is nested too deep") from None
    if not isinstance(value, dict):
        raise RequestError("the body must be a JSON object")
    check_extremes(value, body)
    note_body(value)
    return value
