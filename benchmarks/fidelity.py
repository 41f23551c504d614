"""Quality beside speed: how far every contestant's probabilities are from float32, and its perplexity.

    python benchmarks/fidelity.py [--peer llama.cpp] [--format int8] [--tokens 4096]

The truth is a float32 run of the source file's dequantised weights by transformers, over windows of a text
that start anew. What one format loses against the source counts as much as what the arithmetic loses.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import build_llama_cpp
import numpy as np
from divergence import compare, compare_likeliest
from peers import contestants as runners
from peers import environments
from peers.contestants import Contestant, Room, contestants
from peers.engines import Served
from peers.environments import run, say
from peers.weights import Weights

from legato import models
from legato.bench.http_stream import fetch_json
from legato.bench.report import number, write_json
from legato.config import EngineConfig
from legato.errors import EngineError, LegatoError
from legato.text.tokenizer import load_tokenizer
from legato.weights import hub

sys.path.append(str(Path(__file__).parent.parent / "tests" / "models"))
from stepping import Stepper

REFERENCE = Path(__file__).parent / "peers" / "reference_logits.py"
CHUNK = 256
TOKENS, WINDOW = 4096, 1024
LIKELIEST = 20  # log-probabilities of a prompt's token that vLLM tells at most, as it comes


@dataclass
class Text:
    """Token ids and the truth about them, [tokens, vocab] on disk."""

    weights: Weights
    ids: list[int]
    window: int
    threads: int
    work: Path
    truth: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        np.asarray(self.ids, np.int32).tofile(self.given)
        target = self.work / "truth.f32"
        command: list[str | Path] = [environments.exporter(), REFERENCE, self.weights.source]
        run([*command, self.given, target, str(self.window)], "the reference does not run")
        self.truth = self.read(target)

    @property
    def given(self) -> Path:
        return self.work / "ids.i32"

    def read(self, file: Path) -> np.ndarray:
        return np.memmap(file, np.float32, "r").reshape(len(self.ids), -1)

    def windows(self) -> Iterator[list[int]]:
        for begin in range(0, len(self.ids), self.window):
            yield self.ids[begin : begin + self.window]

    def measure(self, runner: Contestant) -> dict[str, float]:
        """Raises EngineError if it cannot be asked."""
        if runner.engine == runners.VLLM:
            return self._vllm(runner)
        target = self.work / "logits.f32"
        writer = {
            runners.LEGATO: self._legato,
            runners.LLAMA: self._llama,
            runners.OPENVINO: self._openvino,
        }[runner.engine]
        writer(runner, target)
        return compare(self.truth, self.read(target), self.ids, self.window)

    def _legato(self, runner: Contestant, target: Path) -> None:
        quantised = runner.format in ("int8", "int4")
        model = self.weights.checkpoint() if quantised else self.weights.gguf(runner.format)
        config = EngineConfig(
            model=str(model),
            quantization=runner.format if quantised else "none",
            kv_cache_memory=1 << 28,
            max_num_seqs=1,
            threads=self.threads,
        )
        loaded = models.load(config)
        with open(target, "wb") as out:
            for ids in self.windows():
                stepper = Stepper(loaded)
                for begin in range(0, len(ids), CHUNK):
                    stepper.feed(ids[begin : begin + CHUNK]).tofile(out)

    def _llama(self, runner: Contestant, target: Path) -> None:
        program = build_llama_cpp.build_logits()
        command: list[str | Path] = [program, self.weights.gguf(runner.format), self.given, target]
        run([*command, str(self.window)], "llama-logits does not run")

    def _openvino(self, runner: Contestant, target: Path) -> None:
        with runners.openvino(self.weights, runner.format, self.threads, cache_gib=0) as engine:
            engine.write_logits(self.ids, self.window, target)

    def _vllm(self, runner: Contestant) -> dict[str, float]:
        told: list[dict[int, float]] = []
        with runner.start(Room(self.threads)) as engine:
            assert isinstance(engine, Served)
            for ids in self.windows():
                body = {"prompt": ids, "max_tokens": 1, "prompt_logprobs": LIKELIEST}
                request = fetch_json(engine.server.endpoint, "POST", "/v1/completions", body)
                status, answer = asyncio.run(request)
                if status != 200:
                    raise EngineError(f"vLLM answers {status}: {answer}")
                # the first entry is of the first token, about which nothing was asked
                rows = answer["choices"][0]["prompt_logprobs"][1:]
                told += [{int(k): v["logprob"] for k, v in row.items()} for row in rows] + [{}]
        return compare_likeliest(self.truth, told, self.ids, self.window)


def measure_all(
    weights: Weights,
    chosen: list[Contestant],
    threads: int,
    tokens: int = TOKENS,
    window: int = WINDOW,
) -> dict[str, dict[str, float]]:
    """By contestant; one that cannot be asked is said and left out."""
    path = Path(__file__).with_name("quality_text.txt")
    ids = load_tokenizer(weights.source).encode(path.read_text(encoding="utf-8"))[:tokens]
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        text = Text(weights, ids, window, threads, Path(folder))
        for runner in chosen:
            say(f"quality: {runner.name}")
            try:
                runner.prepare()
                found[runner.name] = text.measure(runner)
            except (LegatoError, OSError) as error:
                say(f"without {runner.name}: {error}")
    return found


def table(found: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    lines = ["| | mean KL, nats | p99 | same most likely token | perplexity (float32) |"]
    lines.append("|---|---|---|---|---|")
    for name, row in found.items():
        kl = f"{row['mean_kl']:.5f}" if "mean_kl" in row else f">= {row['mean_kl_at_least']:.5f}"
        p99 = number(row["p99_kl"]) if "p99_kl" in row else "-"
        surprise = f"{row['perplexity']:.3f} ({row['reference_perplexity']:.3f})"
        lines.append(f"| {name} | {kl} | {p99} | {row['top1']:.1%} | {surprise} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", default="smollm2", help="short name or GGUF file")
    add("--peer", action="append", choices=runners.ENGINES, help="only this engine; repeatable")
    add("--format", action="append", help="only this format; repeatable")
    add("--tokens", type=int, default=TOKENS)
    add("--window", type=int, default=WINDOW, help="tokens after which the text starts anew")
    add("--threads", type=int, default=2)
    add("--json", metavar="FILE", default="bench-results/fidelity.json")
    options = parser.parse_args()
    weights = Weights(hub.resolve(options.model).path)
    chosen: list[Contestant] = [
        runner
        for runner in contestants(weights)
        if runner.engine in (options.peer or runners.ENGINES)
        and runner.format in (options.format or [runner.format])
    ]
    try:
        found = measure_all(weights, chosen, options.threads, options.tokens, options.window)
    except LegatoError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    content: dict[str, Any] = {"model": weights.source.name, "tokens": options.tokens}
    write_json(options.json, content | {"window": options.window, "quality": found})
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
