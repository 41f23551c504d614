"""``legato bench throughput``: many prompts at once in this process, as ``LLM.generate`` runs them."""

from __future__ import annotations

import argparse

from legato.bench import in_process
from legato.bench.in_process import EngineHere, memory_mib
from legato.bench.positive import positive_int
from legato.bench.prompts import make_prompts
from legato.bench.report import publish
from legato.bench.rounds import Round


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num-prompts", type=positive_int, default=32, help="prompts of a round")
    in_process.add_arguments(parser)
    parser.set_defaults(input_len=256, rounds=3)


def run(arguments: argparse.Namespace) -> int:
    engine = EngineHere(arguments)
    rounds = [measure(engine, arguments, index) for index in range(arguments.rounds)]
    title = (
        f"{engine.info.name}: {arguments.num_prompts} prompts at once, "
        f"{arguments.input_len} in / {arguments.output_len} out"
    )
    settings = {k: v for k, v in vars(arguments).items() if k not in ("run", "json")}
    publish(title, "throughput", settings, rounds, arguments.json)
    return 0


def measure(engine: EngineHere, arguments: argparse.Namespace, seed: int) -> Round:
    count, input_len, output_len = (
        arguments.num_prompts,
        arguments.input_len,
        arguments.output_len,
    )
    prompts = make_prompts(engine.encode, count=count, length=input_len, seed=seed)
    timed = engine.run(prompts, output_len)
    seconds = timed.duration
    return {
        "output_tokens_per_s": count * output_len / seconds,
        "total_tokens_per_s": count * (input_len + output_len) / seconds,
        "requests_per_s": count / seconds,
        "duration_s": seconds,
        "memory_mib": memory_mib(),
    }
