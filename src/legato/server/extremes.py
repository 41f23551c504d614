"""What JSON allows and nothing here means: too many parts, nested too deep, whole numbers beyond 64 bits."""

from __future__ import annotations

from typing import Any, Final

from legato.errors import RequestError

MAX_DEPTH: Final = 128
"""Levels of lists and objects in one field; a schema's own limit is lower."""

MAX_PARTS: Final = 250_000
"""Lists and objects of a body: each takes fifty times the memory of its two signs, and a moment of
Python's lock. Brackets in texts count as well; a text with that many fits no context."""

_DIGITS: Final = bytes(ord("0") if chr(byte) in "0123456789" else byte for byte in range(256))
"""Makes every digit a zero: looking for nineteen zeros takes a tenth of the time of an expression."""

_LEAST, _MOST = -(2**63), 2**63 - 1


def check_parts(body: bytes | bytearray) -> None:
    """Before the body is read as JSON. Raises RequestError."""
    if body.count(b"[") + body.count(b"{") > MAX_PARTS:
        raise RequestError(f"the body has more than {MAX_PARTS} lists and objects")


def check_extremes(fields: dict[str, Any], body: bytes | bytearray) -> None:
    """``fields`` is what ``body`` says. Raises RequestError naming the field.

    Most bodies have no room for either: that is seen without a walk through what they say.
    """
    has_numbers = b"0" * 19 in body.translate(_DIGITS)
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
