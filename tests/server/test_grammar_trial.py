"""Bad and explosive grammars: each is told apart in bounded time and memory, and harms nobody."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from legato.constraint.tokens import TokenTable
from legato.errors import RequestError
from legato.server.grammar_trial import GrammarProcess, GrammarTrial
from legato.text import grammar

TOKENS = [bytes([byte]) for byte in range(256)] + [b"word", b"<|end|>", b"<|start|>"]
TABLE = TokenTable.of(TOKENS, [257, 258], [257])

SECONDS = 5.0
"""An answer may take this long on a machine that does other things, too: 1 s of it is computing."""


@pytest.fixture(scope="module")
def trial() -> Iterator[GrammarTrial]:
    started = GrammarTrial(lambda: TABLE.spellings)
    started.check('start: "a"', "f")
    yield started
    started.close()


def peak_memory(process: GrammarProcess) -> int:
    """Bytes."""
    assert process.process is not None
    with open(f"/proc/{process.process.pid}/status") as status:
        (line,) = [line for line in status if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def schema(**keywords: Any) -> str:
    return grammar.json_schema(keywords, "f")


def words(count: int) -> list[str]:
    letters = random.Random(0)
    return ["".join(letters.choices("abcdefgh", k=6)) for _ in range(count)]


def doubled(levels: int, keyword: str) -> dict[str, Any]:
    """Each definition has the next one twice."""
    parts = {
        f"d{level}": {keyword: [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(levels)
    }
    return {"$defs": {**parts, f"d{levels}": {"type": "string"}}, "$ref": "#/$defs/d0"}


CHAIN = "\n".join(f'r{i}: "a" r{i + 1} | "b"' for i in range(5000))
LOOPS = "\n".join(f'e{i}: e e | "x"' for i in range(1500))
EXPLOSIVE = {
    "a chain of rules that overflows the stack": f'start: r0\n{CHAIN}\nr5000: "c"',
    "rules that are all ambiguous": f"start: e\ne: {' | '.join(f'e{i}' for i in range(1500))}\n{LOOPS}",
    "patterns of properties, each against each": schema(
        type="object", patternProperties={f"^{word}": {"type": "string"} for word in words(500)}
    ),
    "thousands of optional properties": schema(
        type="object", properties={f"key{i}": {"type": "string"} for i in range(6000)}
    ),
    "an intersection": "start: A\nA: /.*a.{30}/ & /.*b.{30}/ & ~/.*c.{30}/",
    "all of many patterns": schema(allOf=[{"type": "string", "pattern": f"{c}.{{20}}"} for c in "abcdefgh"]),
    "alternatives multiplied": schema(
        allOf=[{"anyOf": [{"properties": {f"p{i}{j}": {}}} for j in range(8)]} for i in range(8)]
    ),
    "oneOf doubled thirty times": schema(**doubled(30, "oneOf")),
    "a multiple of a large number": schema(type="integer", multipleOf=1_234_567_891),
    "a part of a long text": "start: %regex " + json.dumps({"substring_chars": "abcdefgh" * 25_000}),
}  # fmt: skip
WRONG = {
    "rules that never end": ("start: a\na: b\nb: a", "no text fits"),
    "terminals in a circle": ("start: A\nA: B\nB: A", "circular reference"),
    "a schema that is itself": (schema(**{"$ref": "#"}), "no text fits"),
    "two schemas that are each other": (
        schema(**{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
        "no text fits",
    ),
    "a schema elsewhere": (schema(**{"$ref": "http://127.0.0.1:1/x.json"}), "127.0.0.1:1/x.json"),
    "a schema that is nowhere": (schema(**{"$ref": "#/$defs/x"}), r"\$defs/x"),
    "look-ahead": ("start: /(?=(a+)+$)b/", "look-around"),
    "a pattern with look-behind": (schema(type="string", pattern="(?<!a)b"), "look-around"),
    "an open group": ("start: /(/", "unclosed group"),
    "parentheses": ("start: " + "(" * 5000 + '"a"' + ")" * 5000, "too deeply nested"),
    "parentheses in an expression": ("start: /" + "(" * 5000 + "a" + ")" * 5000 + "/", "nest"),
    "a word that is none": ("start: foo", "unknown name"),
    "no start": ('begin: "a"', "start"),
    "letters that are none": ('start: "\ud800"', "not Unicode"),
}  # fmt: skip
COSTLY_BUT_SOUND = {
    "repetitions of repetitions": "start: /((a{1000}){1000}){1000}/",
    "stars in stars": "start: /(((a*)*)*)*b/",
    "a large automaton": "start: /.*[ab].{18}c/",
    "long strings": schema(type="string", minLength=100_000, maxLength=200_000),
    "many items": schema(type="array", items={"type": "string"}, minItems=999_999),
    "properties doubled thirty times": schema(**doubled(30, "allOf")),
    "ten thousand words": grammar.choice(sorted({*words(10_000)}), "f"),
    "a long enumeration": schema(enum=sorted({*words(10_000)})),
    "a control token": "start: <|start|>",
}


@pytest.mark.parametrize("name", EXPLOSIVE)
def test_explosive_grammars_are_refused_in_time(trial: GrammarTrial, name: str) -> None:
    start = time.monotonic()
    with pytest.raises(RequestError) as caught:
        trial.check(EXPLOSIVE[name], "guided_grammar")
    assert time.monotonic() - start < SECONDS
    assert caught.value.field == "guided_grammar" and len(str(caught.value)) < 1100


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(trial: GrammarTrial, name: str) -> None:
    source, complaint = WRONG[name]
    start = time.monotonic()
    with pytest.raises(RequestError, match=complaint) as caught:
        trial.check(source, "response_format")
    assert time.monotonic() - start < SECONDS
    assert str(caught.value).startswith("response_format")
    assert "no_forcing" not in str(caught.value) and "x-guidance" not in str(caught.value)


@pytest.mark.parametrize("name", COSTLY_BUT_SOUND)
def test_what_only_looks_explosive_is_served(trial: GrammarTrial, name: str) -> None:
    start = time.monotonic()
    trial.check(COSTLY_BUT_SOUND[name], "f")
    assert time.monotonic() - start < SECONDS


def test_memory_is_bounded(trial: GrammarTrial) -> None:
    with pytest.raises(RequestError, match="too big"):
        trial.check(
            'start: %json {"enum": ' + json.dumps([f"value {i}" for i in range(100_000)]) + "}", "f"
        )
    assert peak_memory(trial.first) < 400 << 20


def test_an_outcome_is_remembered(trial: GrammarTrial, monkeypatch: pytest.MonkeyPatch) -> None:
    known, broken = 'start: "known"', "start: unknown"
    trial.check(known, "f")
    with pytest.raises(RequestError):
        trial.check(broken, "f")
    for process in (trial.first, trial.whole):
        monkeypatch.setattr(process, "ask", None)
    trial.check(known, "f")
    with pytest.raises(RequestError, match="^grammar: "):
        trial.check(broken, "grammar")


def test_what_was_given_is_fed(trial: GrammarTrial) -> None:
    """Once the grammar is known, too; and a text that breaks it says nothing about the grammar."""
    source = 'start: "one " ("two" | "three")'
    for _ in range(2):
        trial.check(source, "f", b"one t")
        with pytest.raises(
            RequestError, match=r"at character 4, marked .* \(possible: 't'\)"
        ) as caught:
            trial.check(source, "f", b"one four")
        assert caught.value.field == "f"
        trial.check(source, "f")


@pytest.mark.parametrize("which", ["first", "whole"])
def test_a_process_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    trial = GrammarTrial(lambda: TABLE.spellings)
    trial.check('start: "a"', "f")
    asked: GrammarProcess = getattr(trial, which)
    process = asked.process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    stat = Path(f"/proc/{process.pid}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "T":  # it may still be on its way
        time.sleep(0.01)
    limits = asked.limits
    asked.limits = msgspec.structs.replace(limits, wall_seconds=0.2)
    with pytest.raises(RequestError, match="too complex"):
        trial.check('start: "b"', "f")
    assert process.poll() is not None and asked.process is None
    asked.limits = limits
    trial.check('start: "c"', "f")
    trial.close()


def test_the_servers_process_compiles_nothing() -> None:
    """What compiles holds Python's lock: everybody would wait."""
    code = "import sys, legato.server.app; assert 'llguidance' not in sys.modules; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
