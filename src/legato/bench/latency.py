"""``legato bench latency``: one stream in this process."""

from __future__ import annotations

import argparse

from legato.bench import in_process
from legato.bench.in_process import EngineHere, memory_mib
from legato.bench.prompts import make_prompts
from legato.bench.report import publish
from legato.bench.rounds import Round

add_arguments = in_process.add_arguments


def run(arguments: argparse.Namespace) -> int:
    engine = EngineHere(arguments)
    rounds = [measure(engine, arguments, index) for index in range(arguments.rounds)]
    for figures in rounds:
        figures["load_s"] = engine.load_seconds
        figures["memory_after_loading_mib"] = engine.loaded_mib
        figures["memory_mib"] = memory_mib()
    title = f"{engine.info.name}: one stream, {arguments.input_len} in / {arguments.output_len} out"
    settings = {k: v for k, v in vars(arguments).items() if k not in ("run", "json")}
    publish(title, "latency", settings, rounds, arguments.json)
    return 0


def measure(engine: EngineHere, arguments: argparse.Namespace, seed: int) -> Round:
    prompts = make_prompts(engine.encode, count=1, length=arguments.input_len, seed=seed)
    times = engine.run(prompts, arguments.output_len).token_times["0"]
    figures = {
        "ttft_ms": times[0] * 1e3,
        "prefill_tokens_per_s": arguments.input_len / times[0],
    }
    if len(times) > 1:
        decode = (times[-1] - times[0]) / (len(times) - 1)
        figures |= {"time_per_token_ms": decode * 1e3, "decode_tokens_per_s": 1 / decode}
    return figures | {"end_to_end_ms": times[-1] * 1e3}
