"""``make bench``: the speed floor, Legato beside llama.cpp on the same GGUF file and threads.

Rounds are interleaved (ours, theirs, ours, theirs ...), medians are reported with their spread. On a
machine that is busy with other things the figures are worth little: the last line says how busy.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kept
import llama_cpp
import measures
from comparison import Figure, show
from llama_cpp import LlamaCpp
from measures import Shares
from servers import Server, free_port, legato_command, llama_command

from legato.bench.processes import Noise
from legato.bench.prompts import make_prompts
from legato.bench.report import machine, number, write_json
from legato.bench.rounds import Spread
from legato.bench.serve import local_encode
from legato.errors import EngineError, LegatoError, ModelError
from legato.weights import hub

MB = 1e6
ONE_INPUT, ONE_OUTPUT = 512, 128
MANY_INPUT, MANY_OUTPUT, STREAMS = 256, 128, 32
ONE_CONTEXT, MANY_CONTEXT = 4096, 65536  # llama-server divides its context among its slots


@dataclass
class Floor:
    """The measurements, on one model file. ``peer`` is None where there is no llama.cpp."""

    model: str
    threads: int
    rounds: int
    peer: LlamaCpp | None
    figures: list[Figure] = field(default_factory=list)
    shares: list[Shares] = field(default_factory=list)
    noise: dict[str, float] = field(default_factory=dict)  # part -> processors busy otherwise

    def __post_init__(self) -> None:
        self._prompts = partial(make_prompts, local_encode(self.model))

    def measure(self, part: str) -> None:
        noise = Noise()
        getattr(self, part)()
        self.noise[part.replace("_", " ")] = noise.processors()

    def figure(self, name: str, unit: str, **options: Any) -> Figure:
        self.figures.append(Figure(name, unit, **options))
        return self.figures[-1]

    def legato(self, model: str | None = None) -> Server:
        port = free_port()
        return Server("legato", legato_command(model or self.model, self.threads, port), port)

    def llama(self, slots: int, context: int) -> Server | None:
        if self.peer is None:
            return None
        port = free_port()
        command = llama_command(self.peer.server, self.model, self.threads, port, slots, context)
        return Server("llama-server", command, port)

    def in_process(self) -> None:
        """One stream without HTTP: ``legato bench latency`` beside ``llama-bench``."""
        prefill = self.figure("prefill, in process", "tokens/s", floor=3.0)
        decode = self.figure("decode, in process", "tokens/s", floor=1.5)
        for _ in range(self.rounds):
            ours = measures.legato_in_process(self.model, self.threads, ONE_INPUT, ONE_OUTPUT)
            if self.peer is None:
                theirs: tuple[float | None, float | None] = (None, None)
            else:
                bench = partial(self.peer.bench, self.model, self.threads)
                theirs = (
                    bench(prompt=ONE_INPUT, output=0, depth=0),
                    bench(prompt=0, output=ONE_OUTPUT, depth=ONE_INPUT),
                )
            prefill.add(ours[0], theirs[0])
            decode.add(ours[1], theirs[1])

    def one_stream(self) -> None:
        """One stream through HTTP."""
        prefill = self.figure("prefill, through HTTP", "tokens/s", floor=3.0)
        decode = self.figure("decode, through HTTP", "tokens/s", floor=1.5)
        with ExitStack() as stack:
            servers = self._start(stack, slots=1, context=ONE_CONTEXT)
            for index in range(self.rounds):
                prompt = self._prompts(count=1, length=ONE_INPUT, seed=100 + index)[0]
                pairs = [measures.stream_one(server, prompt, ONE_OUTPUT) for server in servers]
                prefill.add(*(pair[0] for pair in pairs))
                decode.add(*(pair[1] for pair in pairs))

    def many_streams(self) -> None:
        """32 streams at once through HTTP, all different."""
        output = self.figure(f"{STREAMS} streams, output", "tokens/s", floor=2.0)
        first = self.figure(f"{STREAMS} streams, TTFT p50", "ms", lower_is_better=True)
        gap = self.figure(f"{STREAMS} streams, time per token p50", "ms", lower_is_better=True)
        with ExitStack() as stack:
            servers = self._start(stack, slots=STREAMS, context=MANY_CONTEXT)
            for index in range(self.rounds):
                prompts = self._prompts(count=STREAMS, length=MANY_INPUT, seed=200 + index)
                pairs = []
                for server in servers:
                    figures, shares = measures.stream_all(server, prompts, MANY_OUTPUT)
                    pairs.append(figures)
                    self.shares.append(shares)
                output.add(*(figures["output_tokens_per_s"] for figures in pairs))
                first.add(*(figures["ttft_p50_ms"] for figures in pairs))
                gap.add(*(figures["time_per_token_p50_ms"] for figures in pairs))

    def warm_start(self) -> None:
        """From spawning a server to its first token, its files being in the page cache."""
        limit: dict[str, Any] = {"relative": False, "lower_is_better": True}
        seconds = self.figure("warm start to first token", "s", floor=2.0, **limit)
        memory = self.figure("memory beyond weights", "MB", floor=150.0, **limit)
        weights = Path(self.model).stat().st_size
        prompt = self._prompts(count=1, length=16, seed=300)[0]
        for index in range(self.rounds + 1):
            results = []
            for start in (self.legato, partial(self.llama, 1, ONE_CONTEXT)):
                server = start()
                if server is not None:
                    with server:
                        results.append(measures.warm_start(server, prompt))
            if index:  # the first round reads the files into the page cache
                seconds.add(*(result[0] for result in results))
                memory.add(*((result[1] - weights) / MB for result in results))

    def first_start(self) -> None:
        """The same from a file beside which nothing is kept: its weights are packed, its merges found."""
        limit: dict[str, Any] = {"relative": False, "lower_is_better": True}
        seconds = self.figure("first start to first token", "s", floor=4.0, **limit)
        prompt = self._prompts(count=1, length=16, seed=300)[0]
        for _ in range(self.rounds):
            with TemporaryDirectory() as folder:
                with self.legato(shutil.copy(self.model, folder)) as server:
                    seconds.add(measures.warm_start(server, prompt)[0])

    def _start(self, stack: ExitStack, slots: int, context: int) -> list[Server]:
        """Both servers, ready and warmed up. Idle, they do not disturb each other."""
        warm_up = self._prompts(count=2, length=64, seed=400)
        servers = []
        for server in (self.legato(), self.llama(slots, context)):
            if server is not None:
                servers.append(stack.enter_context(server).wait())
                measures.stream_all(server, warm_up, 16)
        return servers

    def processors(self) -> dict[str, Spread]:
        """Of the rounds with many streams: processors in use by role."""
        roles = sorted({role for shares in self.shares for role in shares})
        return {role: Spread.of(s[role] for s in self.shares if role in s) for role in roles}


PARTS = ("in_process", "one_stream", "many_streams", "warm_start", "first_start")
KEPT = "kept"  # no regression against the last release: kept.py


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", default="smollm2", help="short name or GGUF file")
    add("--threads", type=int, default=2)
    add("--rounds", type=int, default=5)
    add(
        "--part", action="append", choices=[*PARTS, KEPT], help="measure only this; may be repeated"
    )
    add("--llama-cpp", metavar="DIR", help="llama.cpp's programs; default: LLAMA_CPP_DIR, or built")
    add("--alone", action="store_true", help="without llama.cpp")
    add("--json", metavar="FILE", default="bench-results/floor.json")
    arguments = parser.parse_args()
    try:
        files = hub.resolve(arguments.model)
        if files.kind != "gguf":
            raise ModelError(f"{files.path} is not a GGUF file: llama.cpp could not read it")
        floor = Floor(str(files.path), arguments.threads, arguments.rounds, _peer(arguments))
        parts = arguments.part or [*PARTS, KEPT]
        for part in parts:
            print(f"bench: {part.replace('_', ' ')} ...", file=sys.stderr, flush=True)
            if part != KEPT:
                floor.measure(part)
        if floor.figures:
            _publish(floor, arguments)
        # last, so that a regression stands at the end
        return kept.run(floor.model, floor.threads, store=False) if KEPT in parts else 0
    except LegatoError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def _peer(arguments: argparse.Namespace) -> LlamaCpp | None:
    if arguments.alone:
        return None
    try:
        return llama_cpp.find(arguments.llama_cpp)
    except EngineError as error:
        print(f"bench: {error}\nbench: so Legato is measured alone", file=sys.stderr)
        return None


def _publish(floor: Floor, arguments: argparse.Namespace) -> None:
    title = f"{Path(floor.model).name}, {floor.threads} threads, {floor.rounds} rounds"
    show(title, floor.figures)
    processors = floor.processors()
    if processors:
        shown = ", ".join(f"{role} {number(s.median)}" for role, s in processors.items())
        print(f"processors in use at {STREAMS} streams: {shown}")
    shown = ", ".join(f"{part} {number(busy)}" for part, busy in floor.noise.items())
    print(f"processors busy with anything else (0 is a quiet machine): {shown}")
    write_json(
        arguments.json,
        {
            "model": Path(floor.model).name,
            "threads": floor.threads,
            "rounds": floor.rounds,
            "machine": machine(),
            "figures": [figure.as_json() for figure in floor.figures],
            "noise": floor.noise,
            "processors": {role: spread.as_json() for role, spread in processors.items()},
        },
    )
    print(f"written: {arguments.json}")


if __name__ == "__main__":
    sys.exit(main())
