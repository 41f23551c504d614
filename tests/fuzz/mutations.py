"""Bodies that are nearly right: one or two places of a valid one changed, in JSON or in its bytes."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from valid_requests import Endpoint

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Case:
    """``fields``: the names, outermost, of what was changed; None: the bytes were."""

    endpoint: Endpoint
    body: bytes
    fields: frozenset[str] | None

    @property
    def shown(self) -> str:
        body = self.body if len(self.body) < 600 else self.body[:400] + b"..." + self.body[-100:]
        return f"{self.endpoint.method} {self.endpoint.path} ({len(self.body)} bytes) {body!r}"


NUMBERS: Final = [
    0, -1, 1, 2, 3, 19, 21, 127, 129, 255, 2048, 49151, 49152, 10**6, 2**31 - 1, 2**31, -(2**31) - 1,
    2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64, 10**30, -(10**400), 0.5, -0.5, 1.0, 1e-300, -1e300,
    1e308, 5e-324, 1.7976931348623157e308, 0.9999999999999999, -0.0, 2.5,
]  # fmt: skip
TEXTS: Final = [
    "", " ", "x", "\n", "\x00", "\ud800", "\udfff\ud800", "\ufffe", "🙂" * 50, "a" * 5000, "é\u0301", "\u202e",
    "auto", "none", "text", "json", "json_object", "user", "assistant", "null", "NaN", "-1", "1e999",
    "<|im_end|>", "<|im_start|>assistant\n", "{{ 1/0 }}", "{% for", "../../etc/passwd", "%s%n%x", "(a+)+$",
    "[" * 300, "(" * 300, "\\", "[^\\s\\S]", "(?<!a)b", "a{1000}{1000}", 'root ::= root "a"', "start: start",
]  # fmt: skip
WORDS: Final[list[Any]] = [
    None,
    True,
    False,
    [],
    {},
    [[]],
    [{}],
    [None],
    {"": None},
    {"type": "text"},
]


def _deep(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def _value(dice: random.Random, level: int = 0) -> Any:
    kind = dice.randrange(12 if level < 2 else 9)
    if kind < 4:
        return dice.choice(NUMBERS)
    if kind < 7:
        return dice.choice(TEXTS)
    if kind < 9:
        return copy.deepcopy(dice.choice(WORDS))
    if kind == 9:
        return [_value(dice, level + 1) for _ in range(dice.choice((1, 2, 5, 100)))]
    if kind == 10:
        names = [str(dice.choice(TEXTS + NUMBERS)) for _ in range(dice.randrange(4))]
        return {name: _value(dice, level + 1) for name in names}
    return _deep(dice.choice((2, 20, 90, 400)))


def places(value: Any, here: Place = ()) -> Iterator[Place]:
    """Of all that is inside ``value``."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in inner:
        yield (*here, key)
        if isinstance(part, dict | list):
            yield from places(part, (*here, key))


def _put(body: Any, place: Place, change: Callable[[Any, str | int], None]) -> None:
    for key in place[:-1]:
        body = body[key]
    change(body, place[-1])


def _change(body: Any, place: Place, dice: random.Random) -> bool:
    """Whether something is missing now."""
    kind = dice.randrange(10)

    def change(parent: Any, key: str | int) -> None:
        old = parent[key]
        if kind == 0:
            del parent[key]
        elif kind == 1:
            parent[key] = [old] * dice.choice((1, 2, 300))
        elif kind == 2:
            parent[key] = {"a": old}
        elif kind == 3:
            parent[key] = str(old)
        elif kind == 4 and isinstance(old, dict):
            old[dice.choice(("unknown", "", "a.b", "model", "\x00"))] = _value(dice)
        elif kind == 5 and isinstance(old, list):
            old.insert(dice.randrange(len(old) + 1), _value(dice))
        else:
            parent[key] = _value(dice)

    _put(body, place, change)
    return kind == 0


def changed(endpoint: Endpoint, known: list[str], dice: random.Random) -> Case:
    """``known``: all fields of the endpoint's body; one that is not there may be added."""
    body: Any = copy.deepcopy(endpoint.body)
    fields = set()
    for _ in range(dice.choice((1, 1, 1, 2))):
        if known and dice.random() < 0.4:
            name = dice.choice(known)
            body[name] = _value(dice)
        else:
            place = dice.choice(list(places(body)) or [("a",)])
            if place == ("a",):
                body["a"] = 1
            if _change(body, place, dice):
                fields.update(known)  # any of which may be told to be needed
            name = str(place[0])
        fields.add(name)
    return Case(endpoint, json.dumps(body).encode(), frozenset(fields))


RAW: Final = [
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1" * 5000, b"0x10", b"01", b"+1", b".5", b"1.",
    b"'a'", b"undefined", b"True", b"\xff\xfe", b"\xc0\xaf", b"\xed\xa0\x80", b'"\\ud800"', b'"\\u12"', b'"\\x41"',
    b'"\n"', b"[" * 5000, b'{"a":' * 5000, b"[" * 5000 + b"]" * 5000, b"/**/1", b"\x00", b"\xef\xbb\xbf1", b"",
]  # fmt: skip


def damaged(endpoint: Endpoint, dice: random.Random) -> Case:
    """The bytes of a valid body with a value replaced by what is no JSON, or with bits flipped."""
    data = json.dumps(endpoint.body).encode()
    kind = dice.randrange(4)
    at = dice.randrange(len(data))
    if kind == 0:
        values = [m for m in ("3", "hi", '"') if m.encode() in data] or ["{"]
        data = data.replace(dice.choice(values).encode(), dice.choice(RAW), 1)
    elif kind == 1:
        data = data[:at] + dice.choice(RAW) + data[at:]
    elif kind == 2:
        data = data[:at]
    else:
        flipped = bytearray(data)
        for _ in range(dice.choice((1, 1, 8))):
            flipped[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        data = bytes(flipped)
    return Case(endpoint, data, None)


def cases(endpoints: list[Endpoint], known: dict[str, list[str]], seed: int) -> Iterator[Case]:
    """For ever; the same for the same seed."""
    dice = random.Random(seed)
    while True:
        endpoint = dice.choice(endpoints)
        if dice.random() < 0.15:
            yield damaged(endpoint, dice)
        else:
            yield changed(endpoint, known.get(endpoint.path, []), dice)
