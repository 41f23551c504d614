r"""GBNF, the grammars of llama.cpp, in the form that ``llguidance`` reads.

``llguidance`` brings a converter. Here its input is made plain first: a character has one notation
(the converter breaks ``\u00e9``, and ``[a&&b]`` becomes an intersection), rules have names that its
target language allows, comments are gone.

One difference to llama.cpp stays: a rule made of characters alone is matched as a word is, as far as
it goes. ``ws ::= [ \n]*`` takes all white space, and a newline demanded after it is never found.
"""

from __future__ import annotations

import re

from legato.errors import RequestError

MAX_RULES = 500
MAX_WORK = 5_000_000
"""Rules times parts of all rules. The converter looks at each part up to once a rule: that takes two
seconds at worst, and one more for everything else; other threads run meanwhile."""

# What is never closed is a part, too, at which reading ends: each would be sought to the end again.
_PARTS = re.compile(
    r'(?P<text>"(?:\\.|[^"\\])*")|(?P<set>\[(?:\\.|[^\]\\])*\])|(?P<comment>#[^\n]*)'
    r"|(?P<times>\{[^}]*\})|(?P<name>[A-Za-z0-9_-]+)|(?P<any>\.)|(?P<open>[\"\[{])",
    re.DOTALL,
)
_ANY = "[\\x00-\U0010ffff]"  # a newline, too
_EMPTY_FIRST = re.compile(r"::=[^\S\n]*+\n\s*+\|")  # the converter wants it on one line
_RULE = re.compile(r"(?<![\w-])([\w-]++)\s*+::=")
_CHARACTER = re.compile(
    r"\\x([0-9a-fA-F]{2})|\\u([0-9a-fA-F]{4})|\\U([0-9a-fA-F]{8})|(\\?.)", re.DOTALL
)
_ESCAPED = {"\\n": "\n", "\\r": "\r", "\\t": "\t"} | {f"\\{c}": c for c in '"\\[]-^/'}


def to_lark(grammar: str, field: str) -> str:
    """Raises RequestError naming ``field``."""
    # 12 ms and 7 MB for those servers only that are sent one.
    from llguidance.gbnf_to_lark import gbnf_to_lark

    def word(part: re.Match[str]) -> str:
        if part.lastgroup == "open":
            raise RequestError(f"{field}: a {part[0]} is never closed", field)
        return part[0] if part.lastgroup == "name" else ""

    words, parts = _PARTS.subn(word, grammar)
    names: dict[str, str] = {}
    for name in _RULE.findall(words):
        names.setdefault(name, "root" if name == "root" else f"r{len(names)}x")
    if "root" not in names:
        raise RequestError(f"{field} has no rule called root", field)
    if len(names) > MAX_RULES:
        raise RequestError(f"{field} has {len(names)} rules, at most {MAX_RULES} are", field)
    if len(names) * parts > MAX_WORK:
        most = MAX_WORK // len(names)
        raise RequestError(f"{field}: its rules have {parts} parts, at most {most} are", field)

    def plain(part: re.Match[str]) -> str:
        kind, text = part.lastgroup, part[0]
        if kind == "text":
            return f'"{"".join(map(_in_text, _characters(text[1:-1], field)))}"'
        if kind == "set":
            return _set(text[1:-1], field)
        if kind == "name":
            if text not in names:
                raise RequestError(f"{field} has no rule called {text}", field)
            return names[text]
        if kind == "any":
            return _ANY
        return text if kind == "times" else ""

    plainly = _EMPTY_FIRST.sub("::= |", _PARTS.sub(plain, grammar))
    try:
        return gbnf_to_lark(plainly)
    except RecursionError:
        raise RequestError(f"{field} is nested too deeply", field) from None
    except Exception as error:  # it has one of its own, and fails in other ways, too
        raise RequestError(f"{field} cannot be read: {error}", field) from error


def _characters(text: str, field: str) -> list[str]:
    """The characters that are meant; a bare ``-`` or ``^`` of a set stays apart as ``""`` + it."""
    found = []
    for x, u, long, plain in _CHARACTER.findall(text):
        code = int(x or u or long or "0", 16)
        if plain:
            if len(plain) == 2 and plain not in _ESCAPED:
                raise RequestError(f"{field}: unknown escape {plain}", field)
            found.append(_ESCAPED.get(plain, plain))
        elif code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise RequestError(f"{field}: there is no character {code:#x}", field)
        else:
            found.append(chr(code))
    return found


def _in_text(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character >= " " and character != "\x7f" else f"\\x{ord(character):02X}"


def _set(text: str, field: str) -> str:
    """``[...]`` with every character but letters and digits by its number."""
    negated = text.startswith("^")
    items = []
    for item in _CHARACTER.finditer(text[negated:]):
        (character,) = _characters(item[0], field)
        if item[0] == "-" or character.isalnum() or character > "\x7f":
            items.append(character)
        else:
            items.append(f"\\x{ord(character):02X}")
    body = "".join(items)
    # A hyphen at either end is itself.
    if body.startswith("-"):
        body = "\\x2D" + body[1:]
    if body.endswith("-"):
        body = body[:-1] + "\\x2D"
    return f"[{'^' * negated}{body}]"
