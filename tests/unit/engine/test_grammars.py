"""Grammars in the engine, on a program that says what it is told: what goes wrong with one request, and
what it costs, is no other's business."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from llguidance import LLParserLimits
from test_engine import run

from legato.batch import I32, Batch
from legato.config import EngineConfig
from legato.constraint import grammar as grammar_module
from legato.constraint.arriving import Arriving
from legato.constraint.grammar import Grammar
from legato.constraint.tokens import TokenTable
from legato.drafting.gain import Gain
from legato.engine import Engine
from legato.models.info import ModelInfo
from legato.request import FinishReason, Output, Progress, Request, SamplingParams, Thinking
from legato.scheduler import FEW_RUNNING
from legato.sequence import Sequence
from legato.text import grammar as sources

TOKENS = [bytes([byte]) for byte in range(256)] + [b"</think>", b"\n\n", b"</s>"]
CLOSE, BREAK, END = range(256, 259)
TABLE = TokenTable.of(TOKENS, [END], [END])
PROMPT = [1, 2, 3]
Wish = Callable[[int, int], int]
"""Which token is wanted at a place of the answer, with a seed."""


class Program:
    """Takes the token that it wants if it may, or else the first that it may."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish

    def run(self, batch: Batch) -> tuple[np.ndarray, ...]:
        return self._drawn(batch, range(len(batch.logit_rows)))

    def redraw(self, batch: Batch, rows: I32) -> tuple[np.ndarray, ...]:
        return self._drawn(batch, rows.tolist())

    def decoding(self, batch: Batch) -> Decoding:
        return Decoding(self, batch)

    def _drawn(self, batch: Batch, rows: range | list[int]) -> tuple[np.ndarray, ...]:
        sampling, count = batch.sampling, len(batch.logit_rows)
        tokens = np.full(count, -1, np.int32)
        for row in rows:
            place = int(sampling.draw_position[row]) - len(PROMPT)
            wanted = int(sampling.forced[row])
            if wanted < 0:
                wanted = self.wish(place, int(sampling.seed[row]))
            mask = int(sampling.mask_index[row])
            if mask >= 0:
                bits = np.unpackbits(sampling.masks[mask].view(np.uint8), bitorder="little")
                wanted = wanted if bits[wanted] else int(bits.argmax())
            tokens[row] = wanted
        scores = np.full(count, np.nan, np.float32), np.zeros(count, np.int32)
        top = np.zeros((count, 0), np.int32), np.zeros((count, 0), np.float32)
        return tokens, *scores, *top, np.empty(0, np.uint64)


class Decoding:
    def __init__(self, program: Program, batch: Batch) -> None:
        self.program, self.batch = program, batch

    def step(self, tokens: list[int]) -> list[int]:
        self.batch.token_ids[:] = tokens
        self.batch.positions += 1
        self.batch.sampling.draw_position += 1
        return self.program.run(self.batch)[0].tolist()


def make(wish: Wish, max_model_len: int = 1000) -> Engine:
    info = ModelInfo(
        name="said",
        architecture="said",
        vocab_size=len(TOKENS),
        max_model_len=max_model_len,
        num_blocks=64 + max_model_len // 16,
    )
    engine = Engine(Program(wish), info, EngineConfig(model="said"))
    engine.describe(TABLE)
    return engine


def saying(*parts: bytes | int) -> Wish:
    """These parts, then the end."""
    said = [token for part in parts for token in ([part] if isinstance(part, int) else part)]
    return lambda place, seed: said[place] if place < len(said) else END


def ask(grammar: str, id: str = "a", thinking: Thinking | None = None, **params: int) -> Request:
    return Request(
        id=id,
        prompt_token_ids=PROMPT,
        params=SamplingParams(**{"max_tokens": 40, "temperature": 0.0, **params}),
        eos_token_ids=[END],
        thinking=thinking,
        grammar=grammar,
        grammar_field="response_format",
    )


def answer(wish: Wish, request: Request) -> tuple[bytes, str | None, FinishReason | None]:
    """What is said, what went wrong, why it ends."""
    engine = make(wish)
    engine.add(request)
    outputs = run(engine)
    text = TABLE.text(token for output in outputs for token in output.token_ids if token != END)
    return text, outputs[-1].error, outputs[-1].finish_reason


def thinks(budget: int | None, *closing: int) -> Thinking:
    return Thinking(
        opening=b"<think>", closing=b"</think>", is_open=True, budget=budget, closing_ids=[*closing]
    )


JSON = sources.json_object("response_format")
WORD = sources.regex("ok", "response_format")


@pytest.mark.parametrize("closing", [(CLOSE,), (10, CLOSE, BREAK), (10, CLOSE, 10, 10)])
@pytest.mark.parametrize(
    ("grammar", "behind", "content"),
    [
        (JSON, (BREAK, b'{"a":1}'), b'{"a":1}'),
        (JSON, (b'\n\n\n{"a":1}',), b'{"a":1}'),
        (WORD, (BREAK, b"ok"), b"ok"),
        (WORD, (b"\n", BREAK, b"ok"), b"ok"),
        (WORD, (b"ok",), b"ok"),
    ],
)
def test_behind_a_spent_budget_newlines_may_come_first(
    grammar: str,
    behind: tuple[bytes | int, ...],
    content: bytes,
    closing: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wish, mark = saying(b"xy", *closing, *behind), TABLE.text(closing)
    drafted = answer(wish, ask(grammar, thinking=thinks(2, *closing)))
    assert drafted[1:] == (None, FinishReason.STOP)
    assert drafted[0].startswith(b"xy" + mark)
    assert drafted[0].removeprefix(b"xy" + mark).strip(b"\n") == content
    monkeypatch.setattr(Sequence, "draft", lambda *_, **__: [])
    assert answer(wish, ask(grammar, thinking=thinks(2, *closing))) == drafted
    if closing == (CLOSE,):  # as behind the model's own mark
        assert answer(wish, ask(grammar, thinking=thinks(None))) == drafted


def test_a_mark_of_thoughts_that_has_begun_is_completed() -> None:
    """Whether there are thoughts is the model's choice; behind half a mark it has chosen."""
    own = Thinking(opening=b"<think>", closing=b"</think>", is_open=False)
    for wanted, said in (
        ((b"<th", b"ok!!", b"x", CLOSE, b"ok"), b"<think>x</think>ok"),
        ((b"ok",), b"ok"),
    ):
        assert answer(saying(*wanted), ask(WORD, thinking=own)) == (said, None, FinishReason.STOP)


def test_more_newlines_behind_the_thoughts_are_the_grammars() -> None:
    own = thinks(None)
    needs_one = ask(sources.regex(r"\nok", "response_format"), thinking=own)
    assert answer(saying(b"x", CLOSE, b"\n" * 30), needs_one)[0] == b"x</think>\n\nok"
    wish = saying(b"x", CLOSE, b"\n" * 200, b'{"a":1}')
    text, error, _ = answer(wish, ask(JSON, thinking=own, max_tokens=300))
    assert error is None
    assert text.startswith(
        b"x</think>" + b"\n" * (1 + 100) + b"{"
    )  # as much as it has of white space


def test_a_token_that_the_grammar_did_not_take_ends_its_own_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take = Grammar.take

    def takes_another(grammar: Grammar, token: int) -> bool:
        taken = take(grammar, token)
        grammar._taken = ord("n") if token == ord("k") else grammar._taken
        return taken

    monkeypatch.setattr(Grammar, "take", takes_another)
    engine = make(lambda place, seed: (b"ok" if seed else b"so")[place])
    engine.add(ask(sources.regex("ok|on", "response_format"), "a", seed=1))
    engine.add(ask(sources.regex("so|si", "response_format"), "b", seed=0))
    last = {output.request_id: output for output in run(engine)}
    assert last["a"].finish_reason is FinishReason.ERROR and "taken" in (last["a"].error or "")
    assert last["b"].finish_reason is FinishReason.STOP


def test_a_lexer_that_has_met_its_limit_fails_no_later_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grammar_module, "LIMITS", LLParserLimits(max_lexer_states=500))
    grammar = sources.regex("(.*[a-m].{18}[n-z])|!+", "response_format")
    letters = random.Random(0).choices(range(ord("a"), ord("z")), k=10_000)
    engine = make(lambda place, seed: letters[place] if seed else b"!!!"[place], 11_000)
    for id, seed, most in (("before", 0, 3), ("long", 1, 10_000), ("after", 0, 3)):
        engine.add(ask(grammar, id, seed=seed, max_tokens=most))
        *_, last = run(engine)
        if id == "long":
            assert last.finish_reason is FinishReason.ERROR
            assert "too many states" in (last.error or "")
        else:
            assert last.error is None and last.finish_reason is FinishReason.LENGTH


@contextmanager
def compiling(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No grammar is ready before the end of this."""
    may_go_on, feed = threading.Event(), Grammar.feed

    def held(grammar: Grammar, text: bytes, field: str | None = None) -> None:
        assert may_go_on.wait(60)
        feed(grammar, text, field)

    with monkeypatch.context() as patch:
        patch.setattr(Grammar, "feed", held)
        try:
            yield
        finally:
            may_go_on.set()


def test_a_request_is_ranked_while_its_grammar_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = make(saying(b"x" * 30))
    with compiling(monkeypatch):
        engine.add(ask(sources.regex("[a-z]*", "response_format"), n=2))
        engine.rank("a", 7)
    while not engine._scheduler.sequences:
        assert engine.has_work
        engine.step()
    assert [sequence.priority for sequence in engine._scheduler.sequences] == [7, 7]


def test_who_can_be_served_does_not_wait_for_a_grammar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a step that has nothing else to do waits a moment."""
    waited: list[bool] = []
    take = Arriving.take

    def noted(arriving: Arriving, *, waits: bool) -> Iterator[object]:
        waited.append(waits)
        return take(arriving, waits=waits)

    monkeypatch.setattr(Arriving, "take", noted)
    engine = make(saying(b"ok"))
    with compiling(monkeypatch):
        engine.add(ask(WORD))
        assert engine.step() == []
        engine.add(ask("", "other"))
        assert [output.request_id for output in engine.step()] == ["other"]
    assert waited == [True, False]
    run(engine)


def test_grammars_guess_nothing_where_many_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """There a guess takes a row that costs its full time."""
    noted: set[tuple[bool, bool]] = set()
    draft = Sequence.draft

    def note(sequence: Sequence, most: int, gain: Gain | None, *, guesses: bool) -> list[int]:
        noted.add((len(engine._scheduler.running) > FEW_RUNNING, guesses))
        return draft(sequence, most, gain, guesses=guesses)

    monkeypatch.setattr(Sequence, "draft", note)
    engine = make(saying(b"x" * 40))
    engine.add(ask(sources.regex("[a-z]*", "response_format"), n=FEW_RUNNING + 1))
    run(engine)  # one choice at first, which computes the prompt
    assert noted == {(True, False), (False, True)}


def aborted(engine: Engine, index: int | None) -> list[int]:
    outputs = engine.cancel("a", index)
    assert {output.finish_reason for output in outputs} <= {FinishReason.ABORT}
    assert engine.cancel("a", index) == []  # it has ended already
    return [output.index for output in outputs]


def finished(outputs: list[Output]) -> dict[int, FinishReason]:
    return {o.index: o.finish_reason for o in outputs if o.finish_reason is not None}


def test_a_choice_is_cancelled_while_the_grammar_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = make(saying(b"ok"))
    with compiling(monkeypatch):
        engine.add(ask(WORD, n=4))
        assert aborted(engine, 1) == [1] and aborted(engine, 3) == [3]
        assert aborted(engine, 4) == [] and engine.step() == [] and engine.has_work
    outputs = run(engine)
    assert finished(outputs) == {0: FinishReason.STOP, 2: FinishReason.STOP}
    assert {output.index for output in outputs} == {0, 2}


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_request_ends_with_its_last_choice(
    one_by_one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make(saying(b"ok"))
    with compiling(monkeypatch):
        request = ask(WORD, n=4)
        request.progress = [Progress(index=0), Progress(index=2)]  # of another engine
        engine.add(request)
        if one_by_one:
            assert aborted(engine, 2) == [2] and engine.has_work and aborted(engine, 0) == [0]
        else:
            assert aborted(engine, None) == [0, 2]
        assert not engine.has_work
        engine.add(ask(WORD))  # the id is free again
    assert finished(run(engine)) == {0: FinishReason.STOP}


def test_what_was_given_is_read_in_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long text takes as long as many steps, and so does a copy of what was made of it."""
    threads: list[threading.Thread] = []
    for name in ("compile", "feed", "copy"):
        plain = getattr(Grammar, name)

        def noted(*args: object, plain: Callable[..., object] = plain) -> object:
            threads.append(threading.current_thread())
            return plain(*args)

        monkeypatch.setattr(Grammar, name, noted)
    engine = make(saying(b"k"))
    request = ask(sources.regex("ok|on", "response_format"), n=2)
    request.grammar_text = b"o"
    engine.add(request)
    outputs = run(engine)
    assert finished(outputs) == {0: FinishReason.STOP, 1: FinishReason.STOP}
    assert [TABLE.text(output.token_ids) for output in outputs] == [b"k", b"k"]
    assert len(threads) == 3 and threading.main_thread() not in threads


def test_no_memory_for_a_grammar_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Grammar, "compile", fails)
    engine = make(saying(b"ok"))
    engine.add(ask(WORD))
    with pytest.raises(MemoryError):
        run(engine)


@pytest.mark.parametrize("name", ["compile", "feed", "copy"])
def test_a_grammar_that_cannot_be_made_ready_ends_its_own_request(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make(saying(b"ok"))

    def fails(*args: object) -> None:
        raise ValueError("odd")

    with monkeypatch.context() as patch:
        patch.setattr(Grammar, name, fails)
        engine.add(ask(WORD, "a", n=2))
        outputs = run(engine)
    assert finished(outputs) == {0: FinishReason.ERROR, 1: FinishReason.ERROR}
    assert all("odd" in (output.error or "") for output in outputs)
    engine.add(ask(WORD, "a"))
    assert finished(run(engine)) == {0: FinishReason.STOP}
