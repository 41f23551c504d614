"""``legato bench overhead``: what a decode step costs beside its native call, by batch size.

Of each step the time inside the program is taken off; what is left is scheduling, guessing ahead,
packing and the taking over of results. Requests are ``--kind`` greedy, sampled or penalised.
"""

from __future__ import annotations

import argparse
from statistics import median
from time import perf_counter
from typing import Any

from legato.batch import I32, Batch
from legato.bench import in_process
from legato.bench.in_process import EngineHere
from legato.bench.positive import positive_ints
from legato.bench.prompts import make_prompts
from legato.bench.report import publish
from legato.bench.rounds import Round
from legato.errors import EngineError
from legato.runner import Decoding, Program

KINDS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"temperature": 0.7, "top_p": 0.95},
    "penalised": {"temperature": 0.7, "repetition_penalty": 1.1, "frequency_penalty": 0.1},
    "logprobs": {"logprobs": 5},
}


class Stopwatch:
    """A program that adds up the seconds spent in it."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.seconds = 0.0

    def run(self, batch: Batch, /) -> tuple[Any, ...]:
        started = perf_counter()
        result = self._program.run(batch)
        self.seconds += perf_counter() - started
        return result

    def redraw(self, batch: Batch, rows: I32, /) -> tuple[Any, ...]:
        started = perf_counter()
        result = self._program.redraw(batch, rows)
        self.seconds += perf_counter() - started
        return result

    def decoding(self, batch: Batch, /) -> Decoding:
        started = perf_counter()
        decoding = self._program.decoding(batch)
        self.seconds += perf_counter() - started
        return Timed(decoding, self)


class Timed:
    """What goes on with a batch, on the same watch."""

    def __init__(self, decoding: Decoding, watch: Stopwatch) -> None:
        self._decoding = decoding
        self._watch = watch

    def step(self, tokens: list[int], /) -> list[int]:
        started = perf_counter()
        drawn = self._decoding.step(tokens)
        self._watch.seconds += perf_counter() - started
        return drawn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--batch-sizes",
        type=positive_ints,
        default="1,4,16,64,256",
        help="sequences that decode at once",
    )
    add("--kind", choices=KINDS, default="greedy", help="how the tokens are chosen")
    in_process.add_arguments(parser)
    parser.set_defaults(input_len=64, output_len=64, rounds=3)


def run(arguments: argparse.Namespace) -> int:
    watch: list[Stopwatch] = []

    def timed(program: Program) -> Program:
        watch.append(Stopwatch(program))
        return watch[0]

    engine = EngineHere(arguments, timed)
    rounds: list[Round] = []
    for index in range(arguments.rounds):
        figures: Round = {}
        for size in arguments.batch_sizes:
            figures |= measure(engine, watch[0], arguments, size, index)
        rounds.append(figures)
    title = f"{engine.info.name}: a decode step beside its native call, {arguments.kind}"
    settings = {k: v for k, v in vars(arguments).items() if k not in ("run", "json")}
    publish(title, "overhead", settings, rounds, arguments.json)
    return 0


def measure(
    engine: EngineHere, watch: Stopwatch, arguments: argparse.Namespace, size: int, seed: int
) -> Round:
    """Medians of the steps in which all sequences decode."""
    prompts = make_prompts(engine.encode, count=size, length=arguments.input_len, seed=seed)
    engine.add(prompts, arguments.output_len, **KINDS[arguments.kind])
    steps: list[tuple[float, float]] = []
    while engine.engine.has_work:
        started, before = perf_counter(), watch.seconds
        outputs = engine.engine.step()
        if len(outputs) == size:
            steps.append((perf_counter() - started, watch.seconds - before))
    if not steps:
        raise EngineError(f"no step in which {size} sequences decode: --output-len is too small")
    step = median(seconds for seconds, _ in steps)
    beside = median(seconds - native for seconds, native in steps)
    return {
        f"step_ms_at_{size}": step * 1e3,
        f"beside_native_us_at_{size}": beside * 1e6,
        f"beside_native_percent_at_{size}": 100 * beside / step,
    }
