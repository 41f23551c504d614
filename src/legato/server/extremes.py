"""What JSON allows and nothing here means: too many parts, nested too deep, whole numbers beyond 64 bits."""

from __future__ import annotations

import re
from typing import Any, Final

from legato.errors import RequestError

MAX_DEPTH: Final = 128
"""Levels of lists and objects in one field; a schema's own limit is lower."""

MAX_PARTS: Final = 250_000
"""Lists and objects of a body: each takes fifty times the memory of its two signs, and a moment of
Python's lock. Brackets in texts count as well; a text with that many fits no context."""

_LONG_NUMBER: Final = re.compile(rb"\d{19}")
_LEAST, _MOST = -(2**63), 2**63 - 1


def check_parts(body: bytes | bytearray) -> None:
    """Before the body is read as JSON. Raises RequestError."""
    if body.count(b"[") + body.count(b"{") > MAX_PARTS:
        raise RequestError(f"the body has more than {MAX_PARTS} lists and objects")


def check_extremes(fields: dict[str, Any], body: bytes | bytearray) -> None:
    """``fields`` is what ``body`` says. Raises RequestError naming the field.

    Most bodies have no room for either: that is seen without a walk through what they say.
    """
    has_numbers = _LONG_NUMBER.search(body) is not None
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH and not has_numbers:
        return
    for name, value in fields.items():
        _check(name, value)


def _check(name: str, value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        for one in level:
            if type(one) is int and not _LEAST <= one <= _MOST:
                raise RequestError(f"{name}: a whole number is beyond 64 bits", name)
        inner = [
            one.values() if isinstance(one, dict) else one
            for one in level
            if isinstance(one, dict | list)
        ]
        level = [part for parts in inner for part in parts]
        if not level:
            return
    raise RequestError(f"{name} is nested more than {MAX_DEPTH} levels deep", name)
