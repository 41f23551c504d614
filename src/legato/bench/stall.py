"""``legato bench stall``: what decoding streams feel of a long prompt that enters.

Some streams decode undisturbed for a while; then a long prompt comes, and when it has begun its answer,
they decode undisturbed again: meanwhile they have grown, and a step takes longer. Reported are the times between
two tokens of a stream from the prompt's coming until its first token, beside those before and after.
"""

from __future__ import annotations

import argparse
from time import perf_counter

from legato.bench import in_process
from legato.bench.in_process import EngineHere
from legato.bench.positive import positive_int
from legato.bench.prompts import make_prompts
from legato.bench.report import publish
from legato.bench.rounds import Round, percentile
from legato.errors import EngineError
from legato.request import Request, SamplingParams

LONG = "long"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--streams", type=positive_int, default=4, help="sequences that decode")
    add("--prompt-len", type=positive_int, default=7500, help="tokens of the prompt that enters")
    add(
        "--undisturbed",
        type=positive_int,
        default=200,
        help="steps before it comes, and again after",
    )
    in_process.add_arguments(parser)
    # Guesses make steps longer that bring several tokens: what is undisturbed would look slower than it is.
    parser.set_defaults(input_len=64, rounds=3, speculative_config="off")


def run(arguments: argparse.Namespace) -> int:
    engine = EngineHere(arguments)
    rounds = [measure(engine, arguments, index) for index in range(arguments.rounds)]
    title = (
        f"{engine.info.name}: a prompt of {arguments.prompt_len} tokens enters while "
        f"{arguments.streams} streams decode"
    )
    settings = {k: v for k, v in vars(arguments).items() if k not in ("run", "json")}
    publish(title, "stall", settings, rounds, arguments.json)
    return 0


def measure(here: EngineHere, arguments: argparse.Namespace, seed: int) -> Round:
    engine = here.engine
    engine.clear_cache()
    prompts = make_prompts(
        here.encode, count=arguments.streams, length=arguments.input_len, seed=seed
    )
    room = here.info.max_model_len - arguments.input_len
    here.add(prompts, room, temperature=1.0)
    steps = Steps(here, arguments.streams)
    while steps.decoding < arguments.undisturbed:
        steps.step()
    undisturbed = steps.take_gaps()
    [prompt] = make_prompts(here.encode, count=1, length=arguments.prompt_len, seed=seed + 1000)
    params = SamplingParams(temperature=0.0, max_tokens=1)
    engine.add(Request(id=LONG, prompt_token_ids=prompt, params=params))
    started = perf_counter()
    while not steps.has_long_begun:
        steps.step()
    seconds = perf_counter() - started
    during = steps.take_gaps()
    steps.decoding = 0
    while steps.decoding < arguments.undisturbed:
        steps.step()
    undisturbed += steps.take_gaps()
    for index in range(arguments.streams):
        engine.cancel(str(index))
    ratio = percentile(during, 0.99) / percentile(undisturbed, 0.99)
    return {
        "undisturbed_p50_ms": percentile(undisturbed, 0.5) * 1e3,
        "undisturbed_p99_ms": percentile(undisturbed, 0.99) * 1e3,
        "disturbed_p50_ms": percentile(during, 0.5) * 1e3,
        "disturbed_p99_ms": percentile(during, 0.99) * 1e3,
        "p99_ratio": ratio,
        "p99_to_undisturbed_p50": percentile(during, 0.99) / percentile(undisturbed, 0.5),
        "long_prompt_ttft_ms": seconds * 1e3,
        "long_prompt_tokens_per_s": arguments.prompt_len / seconds,
    }


class Steps:
    """Steps an engine, and notes the seconds between tokens of each stream."""

    def __init__(self, here: EngineHere, streams: int) -> None:
        self._engine = here.engine
        self._streams = streams
        self._last: dict[str, float] = {}
        self._gaps: list[float] = []
        self.decoding = 0  # steps in which all streams had a token
        self.has_long_begun = False

    def step(self) -> None:
        outputs = self._engine.step()
        now = perf_counter()
        streams = 0
        for output in outputs:
            if output.error:
                raise EngineError(output.error)
            if output.request_id == LONG:
                self.has_long_begun = True
                continue
            streams += 1
            if output.request_id in self._last:
                self._gaps.append(now - self._last[output.request_id])
            self._last[output.request_id] = now
        self.decoding += streams == self._streams

    def take_gaps(self) -> list[float]:
        gaps, self._gaps = self._gaps, []
        return gaps
