"""Who may ask, and how much they may send: the API key and the size of the body."""

from __future__ import annotations

import hmac
from typing import Any

import msgspec
from starlette.requests import Request

from legato.errors import RequestError
from legato.server.asker import ASKER, Asker, note_body
from legato.server.errors import BodyTooLargeError, UnauthorizedError
from legato.server.service import service_of


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


async def read_object(http: Request, limit: int) -> tuple[dict[str, Any], int]:
    """The JSON object in the body and the body's size in bytes; 400 or 413 if there is none."""
    too_large = BodyTooLargeError(f"the request body is larger than {limit} bytes")
    if int(http.headers.get("content-length") or 0) > limit:
        raise too_large
    body = bytearray()
    async for part in http.stream():
        body += part
        if len(body) > limit:
            raise too_large
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"the body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise RequestError("the body must be a JSON object")
    note_body(value)
    return value, len(body)
