"""What clients ask for, as grammars: which texts they accept, and what is refused by name."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from legato.constraint.grammar import Grammar
from legato.constraint.tokens import TokenTable
from legato.errors import RequestError
from legato.text import gbnf, grammar
from legato.text.grammar import Layout

BYTES = TokenTable.of([bytes([byte]) for byte in range(256)] + [b"</s>"], [256], [256])

JSON_GBNF = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

# Optional space: by convention, applied in this grammar after literal chars when allowed
ws ::= | " " | "\n" [ \t]{0,20}
"""

LIST_GBNF = r"""
root ::= item+

# Excludes various line break characters
item ::= "- " [^\r\n\x0b\x0c\x85\u2028\u2029]+ "\n"
"""

CHESS_GBNF = r"""
root    ::= "1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")+
move    ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn    ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle  ::= "O-O" "-O"?
"""


def accepts(source: str, text: str) -> bool:
    compiled = Grammar.compile(source, BYTES)
    try:
        compiled.feed(text.encode())
    except RequestError:
        return False
    return compiled.is_accepting


def begins(source: str, text: str) -> bool:
    try:
        Grammar.compile(source, BYTES).feed(text.encode())
    except RequestError:
        return False
    return True


@pytest.mark.parametrize(
    ("source", "good", "bad"),
    [
        (JSON_GBNF, ['{"a": [1, 2.5e3, true], "é": {"c": "\\u00e9\\n"}}', "{\n  }"], ['{"a":1,}', "[1]"]),
        (LIST_GBNF, ["- milk\n- eggs\n", "- é\n"], ["- a\u2028b\n", "milk", ""]),
        (CHESS_GBNF, ["1. e4 e5\n2. exd5 Qxd5+\n", "1. O-O-O e5\n2. Nf3 Nc6\n"], ["1. e4 e5\n", "e4"]),
        ('root ::= [\\u0041-\\u005A]+ "\\u00e9"', ["ABCé"], ["abcé", "AB"]),
        ("root ::= [a&&b~-]+", ["a&&~-"], ["c"]),
        ('root ::= "a/b" [/] "//"', ["a/b///"], ["a/b"]),
        ("root ::= [^\\]]+ [[] [+\\-*/]", ["ab[-", "x[*"], ["a[x"]),
        ('root ::= foo-bar | 1st | fooBar | start\nfoo-bar ::= "x"\n1st ::= "y"\nfooBar ::= "z"\n'
         'start ::= "s"', ["x", "y", "z", "s"], ["xy"]),
        ('root ::= "x ::= y" # z ::= "z"', ["x ::= y"], ["z"]),
        ('root ::= a{2,3} b{2}\na ::= "x" a? "y"\nb ::= "q"', ["xyxyqq", "xxyyxyqq"], ["xyqq"]),
        ('root ::= | "\\x0b\\r\\n\\t\\"\\\\"', ["", '\x0b\r\n\t"\\'], ["x"]),
        ('root ::= "é" .{2}', ["éab"], ["é", "éabc"]),
        ('root ::= . . "x"', ["\nax", "éax", "\U0010ffff\0x"], ["ax"]),
        ('root ::=\n  | "a" "."', ["", "a."], ["ab"]),
    ],
)  # fmt: skip
def test_gbnf(source: str, good: list[str], bad: list[str]) -> None:
    lark = grammar.grammar(source, "grammar")
    assert [text for text in good if not accepts(lark, text)] == []
    assert [text for text in bad if accepts(lark, text)] == []


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ('foo ::= "a"', "no rule called root"),
        ("root ::= bar", "^grammar has no rule called bar"),
        ('root ::= "a', 'a " is never closed'),
        ('root ::= "\\', 'a " is never closed'),
        ("root ::= [a-z", r"a \[ is never closed"),
        ("root ::= x{2", r"a \{ is never closed"),
        ('root ::= "a"{' + "9" * 5000 + "}", "cannot be read"),
        ("root ::= ²", "cannot be read"),
        ('root ::= "\\q"', r"unknown escape \\q"),
        ('root ::= "\\ud800"', "no character 0xd800"),
        ('root ::= ("a"', r"Expected '\)'"),
        ("root ::= " + "(" * 3000 + '"a"' + ")" * 3000, "nested too deeply"),
        ("\n".join(f'root{i} ::= "a"' for i in range(501)) + "\nroot ::= root0", "at most 500"),
    ],
)
def test_gbnf_that_is_none(source: str, complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint) as caught:
        grammar.grammar(source, "grammar")
    assert caught.value.field == "grammar"


def test_the_largest_gbnf_is_converted_in_time() -> None:
    rules = [f"a{i} ::= a{i + 1}" for i in range(gbnf.MAX_RULES - 2)]
    source = "\n".join(["root ::= a0", *rules, f'a{len(rules)} ::= "x"'])
    start = time.process_time()
    grammar.grammar(source, "grammar")
    grammar.grammar("root ::= " + '"x" ' * 12_000, "grammar")
    assert time.process_time() - start < 2


def test_a_gbnf_of_many_rules_with_many_parts_is_refused() -> None:
    source = "\n".join(f"a{i} ::= {'.' * 80} a{i + 1}" for i in range(gbnf.MAX_RULES - 2))
    with pytest.raises(RequestError, match="parts, at most"):
        grammar.grammar(f'root ::= a0\n{source}\na498 ::= "x"', "grammar")


HOSTILE = [
    "\n", "\r", " ", "a", "[", "{", '"', '\\"', '"\\', "#", "start[", "x[stop", "x[stop\n", "a ::=\n",
]  # fmt: skip


@pytest.mark.parametrize("part", HOSTILE)
@pytest.mark.parametrize("before", ["", "root ::= ", 'root ::= "a"\n', "start: "])
def test_a_grammar_is_read_in_time_that_grows_with_its_length(before: str, part: str) -> None:
    text = before + part * ((grammar.MAX_GRAMMAR - len(before)) // len(part))
    start = time.process_time()
    with suppress(RequestError):
        grammar.grammar(text, "grammar")
    assert time.process_time() - start < 3


def test_lark() -> None:
    source = grammar.grammar('start: "a" number | b\nnumber: /[0-9]+/\nb: "::=" "b"*\n', "f")
    assert accepts(source, "a12") and accepts(source, "::=bb") and not accepts(source, "a")


@pytest.mark.parametrize("option", ["max_tokens=3", "temperature=0.5", 'stop="x"', "lazy, stop=X"])
def test_options_of_lark_that_need_more_than_masks_are_refused(option: str) -> None:
    with pytest.raises(RequestError, match="is not supported"):
        grammar.grammar(f'start: a "b"\na[{option}]: /x*/', "f")
    grammar.grammar('start: a "b"\na[capture]: /[max_tokens=]/', "f")


def test_any_json_object() -> None:
    source = grammar.json_object("response_format")
    for text in ('{"a": [1, {"b": null}]}', "{}", '\n {"é": "\\u00e9 \\ud83d\\ude00"}'):
        assert accepts(source, text), text
    for text in ("[]", '{"a": }', "{'a': 1}", '{"a": 1,}', '{"a": 1'):
        assert not accepts(source, text), text


def test_white_space_comes_to_an_end() -> None:
    source = grammar.json_object("f")
    assert begins(source, "{" + " " * 100) and not begins(source, "{" + " " * 101)
    assert begins(source, '{"a":' + "\n" * 100) and not begins(source, '{"a":' + "\n" * 101)
    assert begins(source, " " * 100) and not begins(source, " " * 101)


def test_layouts() -> None:
    schema = {"type": "array", "items": {"type": "integer"}}
    compact = grammar.json_schema(schema, "f", layout=Layout(is_compact=True))
    assert accepts(compact, "[1,2]") and not accepts(compact, "[1, 2]")
    narrow = grammar.json_schema(schema, "f", layout=Layout(pattern=" ?"))
    assert accepts(narrow, "[1, 2 ]") and not accepts(narrow, "[1,  2]")
    with pytest.raises(RequestError):
        Grammar.compile(grammar.json_schema(schema, "f", layout=Layout(pattern="(")), BYTES)


PERSON = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


@pytest.mark.parametrize("given", [PERSON, json.dumps(PERSON), json.dumps(PERSON, indent=4)])
def test_a_schema_is_an_object_or_its_text(given: Any) -> None:
    source = grammar.json_schema(given, "f")
    assert accepts(source, '{"name": "Ann", "age": 3}') and not accepts(source, '{"age": 3}')


def test_a_recursive_schema() -> None:
    tree = {
        "type": "object",
        "properties": {"value": {"type": "integer"}, "left": {"$ref": "#"}, "right": {"$ref": "#"}},
        "required": ["value"],
        "additionalProperties": False,
    }
    source = grammar.json_schema(tree, "f")
    assert accepts(source, '{"value": 1, "left": {"value": 2, "right": {"value": 3}}}')
    assert not accepts(source, '{"value": 1, "left": {}}')


def test_true_is_any_json() -> None:
    for given in (True, "true", {}):
        assert accepts(grammar.json_schema(given, "f"), "[1, null]")


def test_without_strict_what_cannot_be_held_to_is_left_out() -> None:
    schema = {"type": "array", "uniqueItems": True, "maxItems": 2}
    source = grammar.json_schema(schema, "f", strict=False)
    assert accepts(source, "[1, 1]") and not accepts(source, "[1, 2, 3]")
    for strict in (True, None):
        with pytest.raises(RequestError, match="uniqueItems"):
            Grammar.compile(grammar.json_schema(schema, "f", strict=strict), BYTES)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("{", "is not JSON"),
        ("[1]", "must be a JSON schema"),
        (False, "must be a JSON schema"),
        ("[" * 100_000, "levels deep"),
        ("x" * 200_001, "at most 200000"),
        ({"enum": ["x" * 200_000]}, "at most 200000"),
        ({"x-guidance": {"lenient": True}}, "x-guidance is not supported"),
    ],
)
def test_schemas_that_are_none(given: Any, complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint) as caught:
        grammar.json_schema(given, "guided_json")
    assert caught.value.field == "guided_json"


def test_a_schema_may_be_sixty_levels_deep() -> None:
    def nested(levels: int) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "string"}
        for _ in range(levels):
            schema = {"type": "array", "items": schema}
        return schema

    deepest = nested(grammar.MAX_DEPTH - 1)
    assert begins(grammar.json_schema(deepest, "f"), "[" * 59 + '"')
    with pytest.raises(RequestError, match="60 levels"):
        grammar.json_schema(nested(grammar.MAX_DEPTH), "f")


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (r"\d{3}-[a-z]+", ["123-abc"], ["123-", "x123-a"]),
        (r"^a/b\/[/]$", ["a/b//"], ["a/b/"]),
        ("a\nb", ["a\nb"], ["anb"]),
        (r"\\n\/", ["\\n/"], ["\n/"]),
        (r"(?i:yes)|no", ["YES", "no"], ["NO"]),
        ("é+", ["éé"], ["e"]),
    ],
)
def test_regular_expressions(pattern: str, good: list[str], bad: list[str]) -> None:
    source = grammar.regex(pattern, "f")
    assert [text for text in good if not accepts(source, text)] == []
    assert [text for text in bad if accepts(source, text)] == []


def test_choices_are_taken_literally() -> None:
    choices = ["yes", "yes, but", 'no/"\\|', "é\n", "a.b", "日本", "a^$*+?()[]{}|~&-"]
    source = grammar.choice(choices, "f")
    assert all(accepts(source, text) for text in choices)
    assert not any(accepts(source, text) for text in ("ye", "axb", "é", "yes, but not", ""))


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (partial(grammar.choice, []), "at least one"),
        (partial(grammar.choice, ["a", ""]), "none empty"),
        (partial(grammar.choice, ["a"] * 10_001), "at most 10000"),
        (partial(grammar.choice, ["a" * 200_001]), "at most 200000"),
        (partial(grammar.regex, ""), "must not be empty"),
        (partial(grammar.regex, "a" * 20_001), "at most 20000"),
        (partial(grammar.grammar, "a" * 50_001), "at most 50000"),
    ],
)
def test_sizes_are_bounded(build: Any, complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint) as caught:
        build("the_field")
    assert caught.value.field == "the_field"
