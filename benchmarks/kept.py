"""What was reached is kept: Legato's times against a reference kernel, beside those of the last release.

    python benchmarks/kept.py               # part of make bench; fails on a regression over 10 %
    python benchmarks/kept.py --store       # this is the release to compare with

Times of a machine that others use too say little, so each is divided by the time of a reference kernel that runs
on the same threads right before and after it: copying memory for what memory limits, arithmetic for the
rest. Both are numpy's, and of both the fastest time counts. A ratio is comparable on one kind of processor only, and on
virtual machines only while two threads are as near each other: kept.json has one entry for each.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from legato import __version__
from legato._native import barrier_ns
from legato.bench import in_process
from legato.bench.in_process import EngineHere
from legato.bench.prompts import make_prompts
from legato.errors import LegatoError

STORED = Path(__file__).with_name("kept.json")
ALLOWED = 1.10  # of the stored ratio
ROUNDS, TRIES = 9, 3  # a regression must show in every try: noise does not
MOVES = 3  # after so many the host may go on moving the threads
FAR_NS = 110  # between 35 to 80 and 160 to 200
COPIED = 1 << 25  # bytes a thread copies: beyond its caches
ELEMENTS, REPEATS = 1 << 16, 60  # of the arithmetic, within them
Ratios = dict[str, float]


class Reference:
    """Two kernels on as many threads as the engine has; ``seconds`` of one run of each."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._sources = [np.ones(COPIED, np.uint8) for _ in range(threads)]
        self._targets = [np.empty(COPIED, np.uint8) for _ in range(threads)]
        self._values = [np.linspace(-1, 1, ELEMENTS, dtype=np.float32) for _ in range(threads)]
        self._results = [np.empty(ELEMENTS, np.float32) for _ in range(threads)]

    def memory(self) -> float:
        return self._time(self._copy)

    def arithmetic(self) -> float:
        return self._time(self._exponentials)

    def _time(self, work: Callable[[int], None]) -> float:
        started = perf_counter()
        list(self._pool.map(work, range(len(self._sources))))
        return perf_counter() - started

    def _copy(self, thread: int) -> None:
        np.copyto(self._targets[thread], self._sources[thread])

    def _exponentials(self, thread: int) -> None:
        for _ in range(REPEATS):
            np.exp(self._values[thread], out=self._results[thread])


class Work:
    """Legato's own times, of one engine in this process. Each call has new prompts."""

    def __init__(self, engine: EngineHere) -> None:
        self._engine = engine
        self._seed = 0

    def prefill(self) -> float:
        """Of 512 tokens."""
        return self._run(1, 512, 1)["0"][0]

    def decode(self) -> float:
        """A step of one sequence."""
        times = self._run(1, 64, 33)["0"]
        return (times[-1] - times[0]) / 32

    def batch(self) -> float:
        """A step of 32 sequences."""
        times = self._run(32, 32, 17)["31"]
        return (times[-1] - times[0]) / 16

    def _run(self, count: int, length: int, output_len: int) -> dict[str, list[float]]:
        self._seed += 1
        encode = self._engine.encode
        prompts = make_prompts(encode, count=count, length=length, seed=8000 + self._seed)
        return self._engine.run(prompts, output_len).token_times


def place() -> str:
    """Whether two threads share a cache: the host moves them."""
    return "near" if barrier_ns() < FAR_NS else "far"


def measure(work: Work, reference: Reference) -> tuple[Ratios, str]:
    """The fastest of the rounds by the fastest of the kernel, and where the threads were, if in one place."""
    pairs = {
        "prefill / arithmetic": (work.prefill, reference.arithmetic),
        "decode / memory": (work.decode, reference.memory),
        "batch of 32 / arithmetic": (work.batch, reference.arithmetic),
    }
    for kernel in (reference.memory, reference.arithmetic):
        kernel()  # touches its arrays
    for _ in range(MOVES):
        before = place()
        fastest = dict.fromkeys(pairs, (inf, inf))
        for _ in range(ROUNDS):
            for name, (own, kernel) in pairs.items():
                times = kernel(), own(), kernel()
                least, kernels = fastest[name]
                fastest[name] = min(least, times[1]), min(kernels, times[0], times[2])
        if place() == before:
            break
    return {name: own / kernel for name, (own, kernel) in fastest.items()}, before


def regressions(found: Ratios, stored: Ratios) -> list[str]:
    """Names of ratios that grew by more than is allowed."""
    return [name for name, ratio in stored.items() if found.get(name, 0.0) > ALLOWED * ratio]


def best(engine: EngineHere, threads: int, content: dict[str, Any]) -> tuple[Ratios, str]:
    """The least ratios of up to ``TRIES`` measurements in one place, and the name of their entry in
    ``content``; one is enough where nothing has grown."""
    work, reference = Work(engine), Reference(threads)
    kinds: dict[str, Ratios] = {}
    for _ in range(TRIES):
        again, where = measure(work, reference)
        kind = f"{processor()}, {threads} threads, {where}"
        found = kinds.setdefault(kind, again)
        found |= {name: min(ratio, again[name]) for name, ratio in found.items()}
        if not regressions(found, content.get(kind, {}).get("ratios", {})):
            break
    return found, kind


def processor() -> str:
    """Vendor, family and model: where ratios are comparable."""
    known: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, found, value = line.partition(":")
        if found:
            known.setdefault(name.strip(), value.strip())
    parts = (known.get(name, "?") for name in ("vendor_id", "cpu family", "model"))
    return " ".join(parts)


def run(model: str, threads: int, store: bool) -> int:
    """Prints a table; 1 if something has grown by more than is allowed. Raises LegatoError."""
    parser = argparse.ArgumentParser()
    in_process.add_arguments(parser)
    flags = ["--model", model, "--threads", str(threads), "--speculative-config", "off"]
    engine = EngineHere(parser.parse_args(flags))
    content = json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {}
    found, kind = best(engine, threads, content)
    entry: dict[str, Any] = content.get(kind, {})
    stored: Ratios = entry.get("ratios", {})
    worse = regressions(found, stored)
    release = entry.get("release", "no release")
    print(f"against a reference kernel in the same run, beside {release} on {kind}; less is better")
    for name, ratio in found.items():
        before = (
            f"{stored[name]:.4f}, now {ratio / stored[name]:.2f} of it" if name in stored else "-"
        )
        print(f"  {name}: {ratio:.4f} (stored: {before}){' REGRESSION' if name in worse else ''}")
    if entry and entry["numpy"] != np.__version__:
        print(f"  the stored ratios are from numpy {entry['numpy']}: the kernels may differ")
    if store:
        content[kind] = {"release": __version__, "numpy": np.__version__, "ratios": found}
        STORED.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return 0
    return 1 if worse else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2", help="short name or GGUF file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--store", action="store_true", help="compare with this from now on")
    arguments = parser.parse_args()
    try:
        return run(arguments.model, arguments.threads, arguments.store)
    except LegatoError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
