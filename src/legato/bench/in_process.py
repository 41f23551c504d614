"""An engine in this process, without HTTP, and the times of its tokens."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from legato import models
from legato.asking import spellings_of
from legato.bench.positive import positive_int
from legato.bench.processes import MIB, resident_bytes
from legato.bench.prompts import Encode, make_prompts
from legato.config import EngineConfig
from legato.constraint.tokens import TokenTable
from legato.engine import Engine
from legato.errors import EngineError
from legato.flags import add_flags, from_flags
from legato.request import Request, SamplingParams
from legato.runner import Program
from legato.text.tokenizer import load_tokenizer
from legato.weights import hub

KV_MEMORY = 1 << 30  # bytes; only the pages that are used count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``latency`` and ``throughput`` have in common."""
    add = parser.add_argument
    add("--input-len", type=positive_int, default=512, help="tokens of each prompt")
    add("--output-len", type=positive_int, default=128, help="tokens of each answer")
    add("--rounds", type=positive_int, default=5, help="repetitions; medians are reported")
    add("--json", metavar="FILE", help="write all rounds and their medians here")
    add_flags(parser, EngineConfig)


@dataclass
class Timed:
    """``token_times``: of each request's tokens, seconds after ``started``."""

    started: float
    token_times: dict[str, list[float]] = field(default_factory=dict)

    @property
    def duration(self) -> float:
        return max(times[-1] for times in self.token_times.values())


class EngineHere:
    """A loaded model. Raises ConfigError or ModelError as ``models.load`` does."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        wrapped: Callable[[Program], Program] = lambda program: program,
    ) -> None:
        """``wrapped`` makes of the loaded program the one that the engine runs."""
        config = from_flags(EngineConfig, arguments)
        if config.kv_cache_memory is None:
            arguments.kv_cache_memory = KV_MEMORY
            config = from_flags(EngineConfig, arguments)
        self.config = config
        started = perf_counter()
        loaded = models.load(config)
        self.load_seconds = perf_counter() - started
        self.loaded_mib = memory_mib()
        self.info = loaded.info
        self.program = loaded.program
        self.draft = loaded.draft
        self.engine = Engine(wrapped(loaded.program), loaded.info, config, draft=loaded.draft)
        self._tokenizer = tokenizer = load_tokenizer(hub.resolve(config.model).path)
        self.encode: Encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
        self.run(make_prompts(self.encode, count=1, length=32, seed=-1), output_len=4)  # warm up

    def describe(self) -> None:
        """Tells the engine what tokens spell, for ``run`` with a grammar."""
        self.engine.describe(TokenTable(spellings_of(self._tokenizer, self.info)))

    def add(
        self, prompts: Sequence[list[int]], output_len: int, *, grammar: str = "", **how: Any
    ) -> None:
        """Requests 0, 1, ... for exactly ``output_len`` tokens each, greedy unless ``how`` says else."""
        for index, prompt in enumerate(prompts):
            fields = {"temperature": 0.0, "max_tokens": output_len, "ignore_eos": True, **how}
            params = SamplingParams(seed=index, **fields)
            self.engine.add(
                Request(id=str(index), prompt_token_ids=prompt, params=params, grammar=grammar)
            )

    def run(
        self,
        prompts: Sequence[list[int]],
        output_len: int,
        *,
        grammar: str = "",
        temperature: float = 0.0,
    ) -> Timed:
        """All prompts at once, exactly ``output_len`` tokens for each."""
        timed = Timed(perf_counter(), {str(index): [] for index in range(len(prompts))})
        self.add(prompts, output_len, grammar=grammar, temperature=temperature)
        while self.engine.has_work:
            outputs = self.engine.step()
            now = perf_counter() - timed.started
            for output in outputs:
                if output.error:
                    raise EngineError(output.error)
                timed.token_times[output.request_id] += [now] * len(output.token_ids)
        if any(len(times) != output_len for times in timed.token_times.values()):
            raise EngineError(f"an answer does not have the {output_len} tokens asked for")
        return timed


def memory_mib() -> float:
    """Of this process, in MiB."""
    return resident_bytes([os.getpid()]) / MIB
