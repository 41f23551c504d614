"""What a client asks an answer's text to be, as a grammar that ``llguidance`` reads (its Lark).

Sizes are checked here; that a grammar is sound, and small enough in use, is found by trying it.
Every function raises RequestError naming ``field``, and returns the grammar's source.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from legato.errors import RequestError
from legato.text import gbnf

MAX_SCHEMA = 200_000
"""Characters of a JSON schema, as compact JSON."""

MAX_DEPTH = 60
"""Levels of objects and lists in a schema: ``llguidance`` reads twice as many."""

MAX_REGEX = 20_000
"""Characters of a regular expression."""

MAX_GRAMMAR = 50_000
"""Characters of a grammar in Lark or GBNF."""

MAX_CHOICES = 10_000
MAX_CHOICES_LENGTH = 200_000
"""Characters of all choices together."""

OPTIONS = "x-guidance"
"""A key of schemas that holds ``llguidance``'s own options, which are ours to set."""

SPACES = r"[\x20\x0A\x0D\x09]{1,100}"
"""White space between the parts of a JSON text. Models get lost in it where it has no end."""

_ONCE = '%llguidance {"ignore_once": true}\n'
"""White space is matched once at a place, so that its pattern bounds it."""
_SPACE_FIRST = '{"allow_initial_skip": true}'


@dataclass(frozen=True)
class Layout:
    """How the parts of a JSON text may be set apart. ``field``: who asked for it."""

    pattern: str = SPACES  # a regular expression for the white space at one place
    is_compact: bool = False  # none at all
    field: str = ""


FREE = Layout()


def json_object(field: str, layout: Layout = FREE) -> str:
    """Any JSON object."""
    return json_schema({"type": "object"}, field, layout=layout)


def json_schema(
    schema: Any, field: str, *, strict: bool | None = None, layout: Layout = FREE
) -> str:
    """JSON that is valid under ``schema``: an object, true, or either as a text.

    What cannot be held to is refused, unless ``strict`` is False: then the rest of it holds. In the
    free layout the text may begin with white space, which is how some models begin.
    """
    given = _parsed(schema, field) if isinstance(schema, str) else schema
    if given is True:
        given = {}
    if not isinstance(given, dict):
        raise RequestError(f"{field} must be a JSON schema: an object", field)
    _check_size(given, field)
    if OPTIONS in given:
        raise RequestError(f"{field}: {OPTIONS} is not supported", field)
    options: dict[str, Any] = {"json_allow_general_unicode_escapes": True}
    if layout.is_compact:
        options["whitespace_flexible"] = False
    else:
        options["whitespace_pattern"] = layout.pattern
    if strict is False:
        options |= {"lenient": True, "coerce_one_of": True}
    body = f"%json {json.dumps({**given, OPTIONS: options})}"
    first = f"%llguidance {_SPACE_FIRST}\n%ignore /{SPACES}/\n" if layout is FREE else ""
    return f"{_ONCE}{first}start: body\nbody: {body}"


def _parsed(text: str, field: str) -> Any:
    if len(text) > MAX_SCHEMA:
        raise RequestError(_too_long(field, len(text), MAX_SCHEMA), field)
    try:
        return json.loads(text)
    except RecursionError:
        raise RequestError(_too_deep(field), field) from None
    except ValueError as error:
        raise RequestError(f"{field} is not JSON: {error}", field) from None


def _check_size(schema: dict[str, Any], field: str) -> None:
    if any(depth > MAX_DEPTH for depth in _depths(schema)):
        raise RequestError(_too_deep(field), field)
    length = len(json.dumps(schema, ensure_ascii=False, separators=(",", ":")))
    if length > MAX_SCHEMA:
        raise RequestError(_too_long(field, length, MAX_SCHEMA), field)


def _depths(schema: Any) -> Iterator[int]:
    """The level of each object and list; stops beyond what is allowed."""
    level, depth = [schema], 0
    while level and depth <= MAX_DEPTH:
        depth += 1
        yield depth
        inner = [part.values() if isinstance(part, dict) else part for part in level]
        level = [value for part in inner for value in part if isinstance(value, dict | list)]


def _too_long(field: str, length: int, most: int) -> str:
    return f"{field} has {length} characters, at most {most} are"


def _too_deep(field: str) -> str:
    return f"{field} is nested more than {MAX_DEPTH} levels deep"


def regex(pattern: str, field: str) -> str:
    """A text that ``pattern`` matches as a whole; in the syntax of Rust's regular expressions."""
    if not pattern:
        raise RequestError(f"{field} must not be empty", field)
    if len(pattern) > MAX_REGEX:
        raise RequestError(_too_long(field, len(pattern), MAX_REGEX), field)
    return f"start: /{_in_slashes(pattern)}/"


def _in_slashes(pattern: str) -> str:
    """``pattern`` as Lark quotes it."""
    signs = {"/": r"\/", r"\/": r"\/", "\n": r"\n", "\\\n": r"\n", "\r": r"\r"}
    return re.sub(r"\\.|.", lambda sign: signs.get(sign[0], sign[0]), pattern, flags=re.DOTALL)


def choice(choices: list[str], field: str) -> str:
    """One of ``choices``."""
    if not choices or "" in choices:
        raise RequestError(f"{field} must be texts, at least one of them, none empty", field)
    if len(choices) > MAX_CHOICES:
        raise RequestError(f"{field} has {len(choices)} texts, at most {MAX_CHOICES} are", field)
    length = sum(map(len, choices))
    if length > MAX_CHOICES_LENGTH:
        raise RequestError(_too_long(field, length, MAX_CHOICES_LENGTH), field)
    return f"start: /{'|'.join(map(_literal, choices))}/"


def _literal(text: str) -> str:
    """A regular expression for this text alone."""
    return re.sub(r"[^\w ]", lambda sign: f"\\x{{{ord(sign[0]):X}}}", text)


# Each pattern is tried once a line, and takes what it took: the time grows with the text, no faster.
_GBNF = re.compile(r"^[^\S\n]*+[\w-]++\s*+::=", re.MULTILINE)
_LARK = re.compile(r"^[^\S\n]*+(%llguidance\b|[?!]?start\b[^:\n]*+:(?!:=))", re.MULTILINE)
_LARK_OPTION = re.compile(
    r"^[^\S\n]*+[\w!?]++\s*+\[[^\]\n]*\b(max_tokens|temperature|stop)\s*+=", re.MULTILINE
)


def grammar(text: str, field: str) -> str:
    """A context-free grammar, in ``llguidance``'s Lark or in llama.cpp's GBNF (rules with ``::=``)."""
    if len(text) > MAX_GRAMMAR:
        raise RequestError(_too_long(field, len(text), MAX_GRAMMAR), field)
    if _GBNF.search(text) and not _LARK.search(text):
        return gbnf.to_lark(text, field)
    found = _LARK_OPTION.search(text)
    if found:
        raise RequestError(f"{field}: the option {found[1]} of a rule is not supported", field)
    return text
