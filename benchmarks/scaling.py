"""How cost grows, engine beside engine: curves, the law each follows, and plots.

    python benchmarks/scaling.py                                # all curves, beside every peer
    python benchmarks/scaling.py --curve length --alone

concurrency  output tokens/s, time to first token and time per token against requests at once
length       prefill and decode of one stream against the length of its prompt
longer       the same beyond the model's context, in a file that promises more: what it says is no longer checked
threads      the race's single and batched columns with one thread and with two
memory       what a server holds against sequences that ran at once (each point is a new server)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scaling_report
from columns import COLUMNS, check_sense, checked, warm_up
from peers.contestants import ENGINES, LEGATO, Contestant, Room, contestants
from peers.engines import Engine
from peers.environments import say
from peers.stable import Stable
from peers.weights import Weights

from legato.bench.load import summary
from legato.bench.processes import MIB
from legato.bench.prompts import Encode, make_prompts
from legato.bench.report import machine, number, write_json
from legato.bench.serve import local_encode
from legato.errors import LegatoError, ModelError
from legato.weights import hub

FORMATS = {"legato": "Q4_1", "llama.cpp": "Q4_0", "vllm": "bf16", "openvino": "int8"}
LONGER = {"legato": "Q4_1", "llama.cpp": "Q4_1"}  # those that take the file as it is
INPUT, OUTPUT = 128, 64  # of a request at each concurrency
LENGTH_OUTPUT = 32
Points = dict[str, dict[str, float]]  # place on the horizontal axis -> figures


@dataclass(frozen=True)
class Curve:
    """``room(level)``: what the engine is started with; ``fresh``: a new engine for each level."""

    levels: tuple[int, ...]
    room: Callable[[int], Room]
    measure: Callable[[Engine, Encode, int], dict[str, float]]
    fresh: bool = False
    context: int = 0  # that the file must promise, if it is more than the model's


def concurrency(engine: Engine, encode: Encode, level: int) -> dict[str, float]:
    prompts = make_prompts(encode, count=level, length=INPUT, seed=5000 + level)
    found = summary(checked(engine, prompts, OUTPUT, level))
    names = ("output_tokens_per_s", "ttft_p50_ms", "time_per_token_p50_ms")
    return {name: found[name] for name in names}


def length(engine: Engine, encode: Encode, level: int) -> dict[str, float]:
    prompts = make_prompts(encode, count=1, length=level, seed=6000 + level)
    (answer,) = checked(engine, prompts, LENGTH_OUTPUT, 1)
    return {"prefill_ms": answer.ttft * 1e3, "decode_ms": answer.time_per_token * 1e3}


def threads(engine: Engine, encode: Encode, level: int) -> dict[str, float]:
    keys = ("prefill", "decode", "streams")
    return {key: COLUMNS[key].measure(engine, encode, level) for key in keys}


def memory(engine: Engine, encode: Encode, level: int) -> dict[str, float]:
    prompts = make_prompts(encode, count=level, length=INPUT, seed=7000 + level)
    before = engine.resident_bytes() / MIB
    checked(engine, prompts, OUTPUT, level)
    return {"before_mib": before, "memory_mib": engine.resident_bytes() / MIB}


CURVES = {
    "concurrency": Curve((1, 4, 16, 64, 256), lambda _: Room(2, 256, 256), concurrency),
    "length": Curve((128, 256, 512, 1024, 2048, 4096, 8064), lambda _: Room(2, 1, 8192), length),
    "longer": Curve((8064, 16256, 32512), lambda _: Room(2, 1, 32768), length, context=32768),
    "threads": Curve((1, 2), lambda level: Room(level, 32, 1408), threads, fresh=True),
    "memory": Curve((1, 4, 16, 64, 256), lambda _: Room(2, 256, 256), memory, fresh=True),
}


def draw(curve: Curve, runner: Contestant, encode: Encode) -> Points:
    """The curve of one contestant. Raises EngineError."""
    points: Points = {}

    def greet(engine: Engine) -> None:
        warm_up(engine, encode)
        check_sense(engine, encode)

    together = [(level,) for level in curve.levels] if curve.fresh else [curve.levels]
    for levels in together:
        with Stable(curve.room(levels[0]), greet) as stable:
            engine = stable.ready(runner)
            for level in levels:
                figures = points[str(level)] = curve.measure(engine, encode, level)
                shown = ", ".join(f"{name} {number(v)}" for name, v in figures.items())
                say(f"    {level}: {shown}")
    return points


def main() -> int:
    arguments = _arguments()
    content: dict[str, Any] = {"machine": machine(), "curves": {}, "absent": {}}
    try:
        files = hub.resolve(arguments.model)
        if files.kind != "gguf":
            raise ModelError(f"{files.path} is not a GGUF file, which the others are made from")
        encode = local_encode(str(files.path))
    except LegatoError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    engines = [] if arguments.alone else [*(arguments.peer or ENGINES)]
    engines = [e for e in engines if e != LEGATO] + [LEGATO] * (not arguments.peers_only)
    for name in arguments.curve or CURVES:
        found = content["curves"].setdefault(name, {})
        for runner in _runners(CURVES[name], files.path, engines):
            say(f"{name}: {runner.name}")
            try:
                runner.prepare()
                found[runner.name] = draw(CURVES[name], runner, encode)
            except (LegatoError, OSError) as error:
                content["absent"][f"{name}: {runner.name}"] = str(error)
                say(f"without {runner.name}: {error}")
            write_json(arguments.json, {"model": files.path.name} | content)  # it may be cut short
    scaling_report.publish([Path(arguments.json)], Path(arguments.plots))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="smollm2", help="short name or GGUF file")
    add("--curve", action="append", choices=list(CURVES), help="this only; may be repeated")
    peers = [engine for engine in ENGINES if engine != LEGATO]
    add("--peer", action="append", choices=peers, help="beside this one only; may be repeated")
    add("--alone", action="store_true", help="no peer at all")
    add("--peers-only", action="store_true", help="without Legato: to be put beside its curves")
    add("--json", metavar="FILE", default="bench-results/scaling.json")
    add("--plots", metavar="DIR", default="bench-results", help="where the plots go")
    return parser.parse_args()


def _runners(curve: Curve, source: Path, engines: list[str]) -> list[Contestant]:
    """Each engine in its fastest format."""
    weights = Weights(source)
    if curve.context:
        weights = weights.with_context(curve.context)
    formats = LONGER if curve.context else FORMATS
    return [
        runner
        for runner in contestants(weights)
        if runner.engine in engines and formats.get(runner.engine) == runner.format
    ]


if __name__ == "__main__":
    sys.exit(main())
