"""Grammars over a small vocabulary: every byte, some words, control tokens."""

from __future__ import annotations

import json
import random
import threading

import numpy as np
import pytest
from llguidance import LLParserLimits

from legato.constraint import grammar as grammar_module
from legato.constraint.grammar import MARK, Grammar, fill_masks, ll_tokenizer
from legato.constraint.tokens import TokenTable
from legato.errors import EngineError, RequestError

WORDS = [
    b'{"',
    b'":',
    b'"}',
    b"name",
    b'": "',
    b"Ann",
    b'", "',
    b" the",
    b"true",
    b"\xc3\xa9t",
    b"12",
]
CONTROL = [b"<|end|>", b"</s>", b"<|im_start|>"]
TOKENS = (
    [bytes([byte]) for byte in range(256)] + WORDS + CONTROL + [b"", b"a"]
)  # "a" is there twice
END, CLOSE, START = (TOKENS.index(token) for token in CONTROL)
TABLE = TokenTable.of(TOKENS, [END, CLOSE, START], [END, CLOSE])

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
OBJECT = "start: %json " + json.dumps(SCHEMA)


def ids(*words: bytes) -> list[int]:
    return [TOKENS.index(word) for word in words]


def allowed(grammar: Grammar, *draft: int) -> list[set[int]]:
    masks = np.full((len(draft) + 3, TABLE.mask_words), 0xDEADBEEF, np.uint32)
    assert fill_masks([(grammar, 1, draft)], masks) == []
    assert (masks[0] == 0xDEADBEEF).all() and (masks[-1] == 0xDEADBEEF).all()
    bits = np.unpackbits(masks[1:-1].view(np.uint8), axis=1, bitorder="little")
    return [set(np.flatnonzero(row).tolist()) for row in bits]


def test_a_mask_allows_every_spelling_of_what_may_come() -> None:
    grammar = Grammar.compile('start: "name" | "Ann"', TABLE)
    assert allowed(grammar) == [{*ids(b"name", b"n", b"Ann", b"A")}]
    grammar = Grammar.compile('start: "a"', TABLE)
    assert allowed(grammar) == [{ord("a"), len(TOKENS) - 1}]  # both tokens that spell it


def test_control_tokens_are_never_text() -> None:
    (free,) = allowed(Grammar.compile("start: /(.|\\n)*/", TABLE))
    assert START not in free
    assert {END, CLOSE} <= free  # the text may end
    (named,) = allowed(Grammar.compile('start: "<|im_start|>"', TABLE))
    assert named == {ord("<")}


def test_end_tokens_are_allowed_if_and_only_if_the_text_may_end() -> None:
    grammar = Grammar.compile("start: /a{2,3}/", TABLE)
    for accepting in (False, False, True, True):
        (free,) = allowed(grammar)
        assert ({END, CLOSE} <= free) == accepting == grammar.is_accepting
        assert bool({END, CLOSE} & free) == accepting
        if not grammar.is_finished:
            grammar.accept(ord("a"))
    assert grammar.is_finished and allowed(grammar) == [{END, CLOSE}]
    grammar.accept(CLOSE)
    assert grammar.is_finished


def test_bits_beyond_the_vocabulary_are_clear() -> None:
    assert TABLE.size % 32 != 0 and TABLE.mask_words == -(-TABLE.size // 32)
    (free,) = allowed(Grammar.compile("start: /(.|\\n)*/", TABLE))
    assert max(free) < TABLE.size


def test_a_draft_gives_the_masks_that_its_tokens_would() -> None:
    draft = ids(b'{"', b"name", b'": "', b"Ann")
    first = Grammar.compile(OBJECT, TABLE)
    step = Grammar.compile(OBJECT, TABLE)
    single = []
    for token in draft:
        single += allowed(step)
        step.accept(token)
    assert allowed(first, *draft) == [*single, *allowed(step)]
    assert allowed(first) == single[:1]  # nothing was changed


def test_behind_a_draft_that_must_not_come_there_is_only_the_end() -> None:
    rows = allowed(Grammar.compile(OBJECT, TABLE), *ids(b'{"', b"true", b"name"))
    assert ids(b"name")[0] in rows[1]
    assert rows[2:] == [{END, CLOSE}, {END, CLOSE}]


def test_a_draft_may_finish_the_text() -> None:
    rows = allowed(Grammar.compile('start: "true"', TABLE), *ids(b"true"))
    assert ids(b"true")[0] in rows[0] and rows[1] == {END, CLOSE}


def test_many_grammars_have_their_masks_in_one_call() -> None:
    grammars = [Grammar.compile(f'start: "{word}"', TABLE) for word in ("name", "Ann", "true")]
    masks = np.zeros((5, TABLE.mask_words), np.uint32)
    jobs = [(grammars[0], 4, []), (grammars[1], 1, ids(b"A")), (grammars[2], 0, [])]
    assert fill_masks(jobs, masks) == []
    for row, token in ((4, b"name"), (1, b"Ann"), (2, b"n"), (0, b"true")):
        (id,) = ids(token)
        assert masks[row, id // 32] >> id % 32 & 1
    assert not masks[3].any()
    assert fill_masks([], masks) == []


@pytest.mark.parametrize("row", [-1, 2, 5])
def test_a_job_outside_the_masks_is_refused(row: int) -> None:
    masks = np.zeros((3, TABLE.mask_words), np.uint32)
    with pytest.raises(ValueError):
        fill_masks([(Grammar.compile(OBJECT, TABLE), row, ids(b"{"))], masks)


def test_given_text_is_fed_whatever_its_tokens() -> None:
    grammar = Grammar.compile(OBJECT, TABLE)
    grammar.feed('{"name": "Zoë the'.encode())
    assert not grammar.is_accepting
    grammar.feed(b'", "age": 4')
    grammar.accept(ids(b"12")[0])
    grammar.feed(b"}")
    assert grammar.is_finished


@pytest.mark.parametrize(
    ("text", "where", "shown"),
    [
        ('{"name": 1, "age": 2}', 9, '{"name": ⟦here⟧1, "age": 2}'),
        ("[1]", 0, "⟦here⟧[1]"),
        ('{"näme": 1', 3, '{"n⟦here⟧äme": 1'),
        ('{"name": "a", "age": "é"}', 21, '..."name": "a", "age": ⟦here⟧"é"}'),
        ('{"name": "a", "age": 2} and', 23, '...me": "a", "age": 2}⟦here⟧ and'),
    ],
)
def test_a_text_that_breaks_the_grammar_is_shown_where(text: str, where: int, shown: str) -> None:
    assert MARK == "⟦here⟧"
    with pytest.raises(RequestError, match=f"at character {where},") as caught:
        Grammar.compile(OBJECT, TABLE).feed(text.encode(), "response_format")
    assert shown.removeprefix("...") in str(caught.value)
    assert caught.value.field == "response_format"


def test_what_could_have_come_is_named() -> None:
    with pytest.raises(RequestError, match=r"possible: 'A' 't'"):
        Grammar.compile('start: "true" | "Ann"', TABLE).feed(b"x")
    with pytest.raises(RequestError, match="it must end there"):
        Grammar.compile('start: "true"', TABLE).feed(b"true!")


def test_a_long_text_is_fed_in_parts() -> None:
    grammar = Grammar.compile('start: /"(a|b)*"/', TABLE)
    with pytest.raises(RequestError, match="at character 5001"):
        grammar.feed(b'"' + b"ab" * 2500 + b"!")


def test_a_vocabulary_without_all_bytes_feeds_what_it_can_spell() -> None:
    table = TokenTable.of([b"ab", b"a", b"c", b"</s>"], [3], [3])
    grammar = Grammar.compile("start: /.*/", table)
    grammar.feed(b"abac")
    with pytest.raises(RequestError, match="at character 1,"):
        Grammar.compile("start: /.*/", table).feed(b"az")


def test_would_accept_counts() -> None:
    grammar = Grammar.compile(OBJECT, TABLE)
    assert grammar.would_accept(ids(b'{"', b"name", b"true")) == 2
    assert grammar.would_accept(ids(b"true")) == 0
    assert grammar.would_accept([]) == 0


def test_forced_text_makes_a_draft() -> None:
    grammar = Grammar.compile('start: "name true" | "name the"', TABLE)
    draft = grammar.draft(8)
    assert TABLE.text(draft) == b"name "  # not the last token, which what follows may go into
    assert draft[0] == ids(b"name")[0] and grammar.draft(1) == draft[:1]
    assert allowed(grammar, *draft)[0] == {*ids(b"n", b"name")}
    for token in draft:
        grammar.accept(token)
    assert grammar.draft(8) == []


def test_text_that_must_come_has_one_spelling() -> None:
    """Otherwise it would depend on where the text was cut how it goes on."""

    def spelling(source: str, *draft: int) -> bytes | None:
        masks = np.zeros((1 + len(draft), TABLE.mask_words), np.uint32)
        grammar = Grammar.compile(source, TABLE)
        fill_masks([(grammar, 0, draft)], masks)
        only = grammar.only_spelling(masks[-1], draft)
        return None if only is None else TOKENS[only]

    assert spelling('start: "name" | "names"') == b"name"
    assert spelling('start: "names" "x"?') == b"name"
    assert spelling('start: "n" "ot"') == b"n"
    assert spelling('start: "name" | "not"') is None  # a choice of text
    assert spelling('start: "name"?') is None  # or the end
    assert spelling("start: /.*/") is None
    assert spelling('start: "true" "name"', *ids(b"true")) == b"name"
    assert spelling('start: "true" "name"', *ids(b"name")) is None  # a draft that must not come


def test_copies_go_their_own_ways() -> None:
    grammar = Grammar.compile('start: ("true" | "Ann") "x"', TABLE)
    other = grammar.copy()
    grammar.accept(ids(b"true")[0])
    assert allowed(other)[0] >= {*ids(b"Ann", b"true")}
    other.accept(ids(b"Ann")[0])
    assert allowed(grammar) == allowed(other) == [{ord("x")}]


def test_a_token_that_must_not_come_is_an_error() -> None:
    grammar = Grammar.compile('start: "true"', TABLE)
    with pytest.raises(EngineError):
        grammar.accept(ord("x"))
    masks = np.zeros((2, TABLE.mask_words), np.uint32)
    ((index, reason),) = fill_masks([(grammar, 0, ids(b"t"))], masks)
    assert index == 0 and reason
    assert (masks == TABLE.mask([END, CLOSE])).all()


def test_a_limit_that_is_met_on_the_way_fails_that_job_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = "start: /.*[a-m].{18}[n-z]/"
    calm = Grammar.compile('start: "true"', TABLE)
    monkeypatch.setattr(grammar_module, "LIMITS", LLParserLimits(max_lexer_states=3000))
    explosive = Grammar.compile(source, TABLE)
    masks = np.zeros((2, TABLE.mask_words), np.uint32)
    letters = random.Random(0)
    for _ in range(10_000):
        failed = fill_masks([(calm, 0, []), (explosive, 1, [])], masks)
        if failed:
            break
        explosive.accept(letters.randrange(ord("a"), ord("z")))
    ((index, reason),) = failed
    assert index == 1 and "too many states" in reason
    assert masks[0].any() and (masks[1] == TABLE.mask([END, CLOSE])).all()
    assert explosive.failure == reason and not explosive.is_finished
    assert source not in grammar_module._vocabulary(TABLE)._compiled  # the next one starts anew


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("start: foo", "unknown name"),
        ("start: (", "Expected token"),
        ("start: /(/", "unclosed group"),
        ("start: a\na: b\nb: a", "no text fits"),
        ("start: A\nA: A", "circular reference"),
        ("", "no start rule"),
    ],
)
def test_a_grammar_that_cannot_be_used_is_refused(source: str, complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint) as caught:
        Grammar.compile(source, TABLE, "grammar")
    assert caught.value.field == "grammar"
    assert "no_forcing" not in str(caught.value) and "<non-verbose" not in str(caught.value)


def test_compiled_grammars_are_kept() -> None:
    vocabulary = grammar_module._vocabulary(TABLE)
    Grammar.compile('start: "kept"', TABLE)
    kept = vocabulary._compiled['start: "kept"']
    Grammar.compile('start: "kept"', TABLE)
    assert vocabulary._compiled['start: "kept"'] is kept
    for number in range(grammar_module.KEPT):
        Grammar.compile(f'start: "{number}"', TABLE)
    assert 'start: "kept"' not in vocabulary._compiled
    assert ll_tokenizer(TABLE) is ll_tokenizer(TABLE)
    assert ll_tokenizer(TABLE).eos_tokens == [END, CLOSE]


def test_other_threads_run_while_a_grammar_is_compiled() -> None:
    schema = {"type": "object", "properties": {f"key{i}": {} for i in range(2500)}}
    ll_tokenizer(TABLE)  # made once, not while others wait
    ticks = 0
    done = threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not done.wait(0.001):
            ticks += 1

    thread = threading.Thread(target=tick)
    thread.start()
    with pytest.raises(RequestError):
        Grammar.compile("start: %json " + json.dumps(schema), TABLE)
    done.set()
    thread.join()
    assert ticks >= 10  # of some hundred; one or two if the interpreter were held


def test_the_end_may_come_where_the_text_may_end() -> None:
    grammar = Grammar.compile('start: "true" "x"?', TABLE)
    end = TABLE.eos_ids[0]
    assert grammar.would_accept([end]) == 0
    assert grammar.would_accept([*ids(b"true"), end]) == 1 + len(ids(b"true"))
    for token in [*ids(b"true"), *ids(b"x")]:
        grammar.accept(token)
    assert grammar.is_finished and grammar.would_accept([end]) == 1
    assert grammar.would_accept(ids(b"x")) == 0
