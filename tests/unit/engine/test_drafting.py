"""Guessing ahead: fewer steps, the same answers; how many are guessed, and when none."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from typing import Any
from weakref import ref

import numpy as np
import pytest
from fake_program import FakeProgram, expected, model_info
from test_engine import ask, run, tokens

from legato.config import EngineConfig
from legato.drafting import known, prediction
from legato.drafting.chances import Chances
from legato.drafting.gain import Gain
from legato.drafting.guesses import Guesses
from legato.drafting.known import NONE, Known
from legato.drafting.lookup import BEGINNING, MOST_PLACES, Lookup
from legato.drafting.pace import Pace
from legato.engine import Engine
from legato.errors import ConfigError
from legato.request import Request
from legato.speculation import Speculation


class Costs(Pace):
    """A row more costs ``row`` of what a step costs."""

    def __init__(self, row: float) -> None:
        super().__init__()
        self._row = row

    def row_cost(self, rows: int) -> float:
        return self._row


def engine_of(row: float = 0.05, **settings: object) -> tuple[Engine, FakeProgram]:
    program = FakeProgram(64)
    return Engine(program, model_info(64), EngineConfig(**settings), Costs(row)), program


def predicted(id: str, prompt: list[int], **params: object) -> Request:
    """A request whose answer is known beforehand."""
    request = ask(id, prompt, **params)
    request.prediction_token_ids = expected(request, 0, 1000)[0]
    return request


@pytest.mark.parametrize("params", [{}, {"temperature": 0.0}, {"frequency_penalty": 0.5}])
def test_a_right_prediction_saves_steps(params: dict[str, object]) -> None:
    engine, program = engine_of()
    request = predicted("a", [1, 2, 3], max_tokens=60, **params)
    engine.add(request)
    assert tokens(run(engine), "a") == request.prediction_token_ids
    assert program.steps < 15


def test_a_wrong_prediction_changes_nothing() -> None:
    engine, program = engine_of()
    request = ask("a", [1, 2, 3], max_tokens=40)
    request.prediction_token_ids = [9, 8, 7] * 20
    engine.add(request)
    assert tokens(run(engine), "a") == expected(request, 0, 1000)[0]
    assert program.steps == 40


def test_a_prediction_is_found_again_behind_an_edit() -> None:
    engine, program = engine_of()
    request = predicted("a", [1, 2, 3], max_tokens=90)
    answer = request.prediction_token_ids
    request.prediction_token_ids = answer[:30] + [7, 7, 7, 7] + answer[35:60] + answer[64:]
    engine.add(request)
    assert tokens(run(engine), "a") == answer
    assert program.steps < 40


def test_a_draft_ends_with_a_stop_token() -> None:
    engine, program = engine_of()
    free = predicted("a", [1, 2, 3], max_tokens=30)
    stop = free.prediction_token_ids[9]
    request = ask("b", [1, 2, 3], max_tokens=30, stop_token_ids=[stop])
    request.prediction_token_ids = free.prediction_token_ids
    engine.add(request)
    outputs = run(engine)
    assert tokens(outputs, "b") == expected(request, 0, 1000)[0]
    assert outputs[-1].stop_token_id == stop


def test_what_does_not_pay_is_not_guessed() -> None:
    engine, program = engine_of(row=1.0)
    engine.add(predicted("a", [1, 2, 3], max_tokens=20))
    run(engine)
    assert program.steps == 20 and max(program.rows) == 3


@pytest.mark.parametrize("off", ["off", None])
def test_it_can_be_switched_off(off: str | None) -> None:
    engine, program = engine_of(speculative_config=off)
    engine.add(predicted("a", [1, 2, 3], max_tokens=20))
    run(engine)
    assert program.steps == 20


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "must be JSON"),
        ("[]", "must be an object"),
        ('{"tokens": 3}', "keys among"),
        ('{"method": "eagle"}', "method must be 'ngram'"),
        ('{"num_speculative_tokens": 65}', r"num_speculative_tokens must be an integer in 0\.\.64"),
        ('{"prompt_lookup_min": 4, "prompt_lookup_max": 3}', r"prompt_lookup_max .* in 4\.\.16"),
        ('{"num_speculative_tokens": true}', "must be an integer"),
    ],
)
def test_settings_are_checked(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        EngineConfig(speculative_config=text)


def test_settings_are_json_or_a_dictionary() -> None:
    """The latter as vLLM's ``LLM`` takes it."""
    given = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3}
    told = EngineConfig(speculative_config=given).speculation
    assert told == EngineConfig(speculative_config=json.dumps(given)).speculation
    assert told is not None and told.num_speculative_tokens == 4
    with pytest.raises(ConfigError, match="keys among"):
        EngineConfig(speculative_config={"model": "small"})


def guess_by_scanning(known: list[int], least: int) -> set[int]:
    """What followed the last ``least`` tokens earlier: the oracle."""
    last = known[-least:]
    ends = range(least, len(known))
    return {known[end] for end in ends if known[end - least : end] == last}


@pytest.mark.parametrize("least", [1, 2, 3])
def test_a_lookup_guesses_what_followed_before(least: int) -> None:
    source = random.Random(least)
    known = [source.randrange(4) for _ in range(20)]
    lookup = Lookup(Known(least, (), known), 5)
    for _ in range(400):
        found = guess_by_scanning(known, least)
        assert (lookup.guess in found) if found else lookup.guess is None
        known.append(source.randrange(4))
        lookup.push(known[-1])
    assert lookup.num_known == len(known)


class Scanning:
    """The oracle: a lookup with all tokens in one list, which it scans."""

    def __init__(self, least: int, most: int, prediction: list[int], given: list[int]) -> None:
        self.least, self.most = least, most
        self.tokens = [*prediction, NONE] if prediction else []
        self.num_before = len(self.tokens)
        self.at: int | None = None
        self.agreeing = self.parted = 0
        self.extend(given)

    def extend(self, tokens: list[int]) -> None:
        self.tokens = self.tokens + tokens
        last = self.tokens[-self.least :]
        ends = range(len(self.tokens) - 1, self.least - 1, -1)
        same = [end for end in ends if self.tokens[end - self.least : end] == last]
        best = (self.agreeing, True, 0) if self.at is not None else (0, False, 0)
        for end in same[:MOST_PLACES]:
            behind = end > self.parted
            rank = (self.agree(end), behind, -end if behind else end)
            if end != self.at and rank > best:
                best, self.at, self.agreeing = rank, end, rank[0]

    def agree(self, end: int) -> int:
        pairs = zip(self.tokens[:end][::-1], self.tokens[::-1], strict=False)
        equal = itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
        return sum(1 for _ in itertools.islice(equal, self.most))

    def push(self, token: int) -> None:
        if self.at is not None and self.tokens[self.at] == token != NONE:
            self.at, self.agreeing = self.at + 1, self.agreeing + 1
        elif self.at is not None:
            self.parted, self.at, self.agreeing = self.at, None, 0
        if self.agreeing < self.most:
            self.extend([token])
        else:
            self.tokens = [*self.tokens, token]

    def ahead(self, most: int) -> list[int]:
        if self.at is None:
            return []
        rest = self.tokens[self.at :]
        whole = itertools.cycle(rest) if self.at >= self.num_before else iter(rest)
        return [*itertools.takewhile(lambda token: token != NONE, itertools.islice(whole, most))]


@pytest.mark.parametrize("seed", range(150))
def test_lookups_share_what_they_begin_with_and_nothing_else(seed: int) -> None:
    """Each guesses what one would that was given everything."""
    source = random.Random(seed)
    letters, least = source.choice((1, 2, 3, 8, 30)), source.choice((1, 2, 3))
    most = least + source.choice((0, 1, 3))

    def text(*lengths: int) -> list[int]:
        return [source.randrange(letters) for _ in range(source.choice(lengths))]

    prediction, given = text(0, 0, 1, 2, 30), text(0, 1, 2, 3, 7, 60)
    known, has_begun = Known(least, prediction, given), source.random() < 0.5
    pairs = [(Lookup(known, most), Scanning(least, most, prediction, given)) for _ in range(3)]
    for lookup, oracle in pairs:
        if prediction and not has_begun:
            lookup.start()
            oracle.at, oracle.agreeing = 0, BEGINNING
    for _ in range(80):
        for lookup, oracle in pairs:
            assert (lookup.at, lookup.agreeing) == (oracle.at, oracle.agreeing)
            ahead = oracle.ahead(source.randrange(1, 20))
            assert lookup.ahead(len(ahead) or 1) == ahead
            assert lookup.guess == (ahead[0] if ahead else None)
            follows = bool(ahead) and source.random() < 0.6
            token = ahead[0] if follows else source.randrange(letters)
            lookup.push(token)
            oracle.push(token)
            assert lookup.num_known == len(oracle.tokens) - oracle.num_before


def test_the_choices_of_a_request_share_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[ref[Known]] = []
    original = Known.__init__

    def counted(known: Known, *arguments: Any) -> None:
        made.append(ref(known))
        original(known, *arguments)

    monkeypatch.setattr(Known, "__init__", counted)
    engine, program = engine_of()
    request = predicted("a", [1, 2, 3] * 9, max_tokens=30, n=4)
    engine.add(request)
    outputs = run(engine)
    for index in range(4):
        found = [token for one in outputs if one.index == index for token in one.token_ids]
        assert found == expected(request, index, 1000)[0]
    assert len(made) == 1
    del engine  # its last step's plan has the sequences
    assert made[0]() is None


def test_only_who_shares_blocks_shares_what_is_known() -> None:
    given = np.arange(9, dtype=np.int32)
    mine = known.shared("a", 2, [1, 2], given)
    assert known.shared("a", 2, [1, 2], given.copy()) is mine
    others = [("b", 2, [1, 2], given), ("a", 3, [1, 2], given), ("a", 2, [1], given)]
    others += [("a", 2, [1, 2], given[1:]), ("a", 2, [], given)]
    assert all(known.shared(*other) is not mine for other in others)
    assert mine.tokens == [1, 2, NONE, *range(9)]
    left = ref(mine)
    del mine
    assert left() is None


def test_what_came_of_a_prediction_is_counted_for_each_choice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing long is made of it before a token comes."""
    request = ask("a", [1], n=3)
    request.prediction_token_ids = list(range(100, 200))
    with monkeypatch.context() as early:
        early.setattr(prediction, "Known", None)
        predictions = prediction.Predictions(request)
        predictions.push(1, [])
        assert predictions.counts == (0, 300)
    predictions.push(0, [100, 101, 102, 5, 6, 103])
    predictions.push(2, [7, *range(150, 160)])
    predictions.push(0, [104, 105])
    assert predictions.counts == (3 + 1 + 8, 300 - 12)  # found again from the third token on
    assert prediction.Predictions(ask("b", [1])).counts is None


def test_a_lookup_goes_round_in_a_circle() -> None:
    lookup = Lookup(Known(2, (), [9, 1, 2, 3, 1, 2]), 5)
    assert lookup.ahead(7) == [3, 1, 2, 3, 1, 2, 3]


def test_a_prediction_ends_where_it_ends() -> None:
    lookup = Lookup(Known(2, [1, 2, 3], [7, 8]), 5)
    lookup.start()
    assert lookup.ahead(9) == [1, 2, 3]
    for token in [1, 2, 3]:
        lookup.push(token)
    assert lookup.ahead(9) == [] and lookup.guess is None


def test_chances_follow_what_happens() -> None:
    chances = Chances()
    for _ in range(50):
        chances.learn(3, is_right=False)
        chances.learn(20, is_right=True)
    assert chances.of(2) < 0.05 and chances.of(40) > 0.99


def best_by_trying(probabilities: Sequence[float], row: float) -> int:
    """The number of guesses with most tokens for the time."""

    def rate(count: int) -> float:
        return (1 + sum(probabilities[:count])) / (1 + row * count)

    return max(range(len(probabilities) + 1), key=rate)


@pytest.mark.parametrize("row", [0.02, 0.1, 0.3, 0.9])
@pytest.mark.parametrize("chance", [0.3, 0.6, 0.9, 0.99])
def test_as_much_is_guessed_as_brings_most(row: float, chance: float) -> None:
    gain, count = Gain(1, row), 0
    probabilities = [chance**ahead for ahead in range(1, 65)]
    while count < 64 and gain.pays(probabilities[count]):
        count += 1
    assert count == best_by_trying(probabilities, row)


def test_a_text_without_repetition_is_left_alone() -> None:
    """After a while of accidental repetitions, guesses cost less than 2 % of the time."""
    source = random.Random(3)
    known = Known(2, (), [source.randrange(20) for _ in range(500)])
    guesses = Guesses(Speculation(), known, has_begun=False)
    drafted, row = [], 0.1
    for _ in range(600):
        drafted.append(len(guesses.draft(15, Gain(1, row))))
        guesses.follow([source.randrange(20)])
    assert row * sum(drafted[200:]) < 0.02 * 400


def test_where_nothing_repeats_itself_it_is_looked_for_now_and_then() -> None:
    new = list(range(1000, 1300))
    guesses = Guesses(Speculation(), Known(2, (), new[:10]), has_begun=False)
    looks, ahead = [], []
    for token in [*new[10:], *new[100:200]]:  # then a part of it comes again
        ahead.append(token)
        looks.append(guesses.is_due())
        if looks[-1]:
            guesses.follow(ahead)
            ahead.clear()
            if guesses.draft(15, Gain(1, 0.05)):
                break
    assert sum(looks[-200:-10]) < 60
    late = len(looks) - (len(new) - 10) - Speculation().prompt_lookup_min
    assert late <= 3 + 1  # the last token of those that agree is followed with the next look
