"""What the race measures: one load a column, the same for every engine, checked before it counts."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from peers.engines import Engine

from legato.bench.load import Streamed, check_lengths, summary
from legato.bench.prompts import Encode, make_prompts
from legato.errors import EngineError

KNOWN = {  # what a model of any size goes on with, in any format
    "The capital of France is": "Paris",
    "One, two, three, four, five,": "six",
    "Monday, Tuesday, Wednesday,": "Thursday",
}
LEAST_KNOWN = 2  # 4-bit weights may have lost one
PLAIN = set(string.printable)
LEAST_PLAIN = 0.8  # of an answer's characters; the prompts are English words


@dataclass(frozen=True)
class Column:
    """One figure of the race. ``target``: how many times better than the best peer ours must be; or
    ``limit``, a value that ours must not exceed; ``goal`` is what is hoped for."""

    key: str
    title: str
    unit: str
    measure: Callable[[Engine, Encode, int], float]
    target: float = math.nan
    limit: float = math.nan
    goal: float = math.nan
    lower_is_better: bool = False

    def better(self, ours: float, theirs: float) -> float:
        """How many times better ours is."""
        return theirs / ours if self.lower_is_better else ours / theirs


def checked(
    engine: Engine, prompts: Sequence[list[int]], output_len: int, at_once: int
) -> list[Streamed]:
    """The answers. Raises EngineError for one that has not the tokens asked for, or no sane text."""
    answers = engine.run(prompts, output_len, at_once)
    complaints = check_lengths(answers, len(prompts[0]), output_len)
    complaints += [f"no sane text: {a.text[:80]!r}" for a in answers if not is_sane(a.text)]
    if complaints:
        raise EngineError(complaints[0])
    return answers


def is_sane(text: str) -> bool:
    """Not empty, not blank, and mostly plain characters: what noise in the weights would not give."""
    plain = sum(character in PLAIN for character in text)
    return bool(text.strip()) and plain >= LEAST_PLAIN * len(text)


def check_sense(engine: Engine, encode: Encode) -> None:
    """Raises EngineError if the model does not know what it knew before it was quantised."""
    answers = [engine.run([encode(prompt)], 16, 1)[0].text for prompt in KNOWN]
    right = sum(word in text for word, text in zip(KNOWN.values(), answers, strict=True))
    if right < LEAST_KNOWN:
        raise EngineError(f"only {right} of {len(KNOWN)} plain questions are answered: {answers}")


def warm_up(engine: Engine, encode: Encode) -> None:
    engine.run(make_prompts(encode, count=2, length=64, seed=-1), 16, 2)


def prefill(engine: Engine, encode: Encode, seed: int) -> float:
    """Prompt tokens a second until the first token came; the best of two, as one is soon over."""
    prompts = make_prompts(encode, count=2, length=512, seed=seed)
    return max(512 / checked(engine, [prompt], 4, 1)[0].ttft for prompt in prompts)


def decode(engine: Engine, encode: Encode, seed: int) -> float:
    """Tokens a second of 128 after a prompt of 512."""
    prompts = make_prompts(encode, count=1, length=512, seed=1000 + seed)
    return 1 / checked(engine, prompts, 128, 1)[0].time_per_token


def streams(engine: Engine, encode: Encode, seed: int) -> float:
    """Output tokens a second of 32 different prompts at once."""
    prompts = make_prompts(encode, count=32, length=256, seed=2000 + seed)
    return summary(checked(engine, prompts, 128, 32))["output_tokens_per_s"]


def shared(engine: Engine, encode: Encode, seed: int) -> float:
    """Output tokens a second of 64 prompts that begin with the same 1,024 tokens, which no engine
    has seen; 16 at once."""
    prompts = make_prompts(encode, count=64, length=1088, shared_prefix=1024, seed=3000 + seed)
    return summary(checked(engine, prompts, 64, 16))["output_tokens_per_s"]


def _after_answer(engine: Engine, encode: Encode, seed: int, more: int) -> float:
    """Milliseconds to the first token after a chat of 1,024 tokens, its answer of 16 as a client sends
    it back, as text, and ``more`` new tokens. The median of three chats."""
    times = []
    for index in range(3):
        (begun,) = make_prompts(encode, count=1, length=1024, seed=seed + index)
        new = make_prompts(encode, count=1, length=more, seed=seed + 5 + index)[0] if more else []
        (answer,) = checked(engine, [begun], 16, 1)
        again = [*begun, *encode(answer.text), *new]
        times.append(checked(engine, [again], 4, 1)[0].ttft * 1e3)
    return sorted(times)[1]


def chat(engine: Engine, encode: Encode, seed: int) -> float:
    """Of a chat that goes on: nothing but the answer is new to the engine as a prompt."""
    return _after_answer(engine, encode, 9000 + 10 * seed, 0)


def turn(engine: Engine, encode: Encode, seed: int) -> float:
    """Of the next turn: 16 tokens that are new."""
    return _after_answer(engine, encode, 4000 + 10 * seed, 16)


COLUMNS = {
    column.key: column
    for column in (
        Column("prefill", "prefill of 512", "tokens/s", prefill, target=1.3, goal=1.6),
        Column("decode", "decode, 1 stream", "tokens/s", decode, target=2.0, goal=2.5),
        Column(
            "streams",
            "32 streams, 256 in / 128 out",
            "output tokens/s",
            streams,
            target=1.6,
            goal=2.0,
        ),
        Column(
            "shared",
            "64 requests sharing 1,024 tokens, 16 at once",
            "output tokens/s",
            shared,
            target=2.5,
            goal=4.0,
        ),
        Column(
            "chat",
            "going on after 1,024 tokens and an answer, TTFT",
            "ms",
            chat,
            limit=10.0,
            goal=5.0,
            lower_is_better=True,
        ),
        Column("turn", "next turn of 16 tokens, TTFT", "ms", turn, lower_is_better=True),
    )
}
