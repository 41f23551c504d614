"""``make bench-peers``: Legato beside llama.cpp, vLLM and OpenVINO GenAI, on the same weights and threads.

    make bench-peers                                            # everything: installs, converts, 3 rounds
    make bench-peers ARGS="--peer llama.cpp --column decode --rounds 1"

Rounds are interleaved: each contestant runs all columns, then the next one, then the next round. A figure is
the median of its rounds. Every answer is checked to have the tokens asked for, and sane text. What cannot be
installed here is said and left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import columns
import race_report
from build_llama_cpp import PROCESSORS
from columns import COLUMNS, Column
from fidelity import measure_all
from peers.contestants import ENGINES, LEGATO, LLAMA, Contestant, Room, contestants
from peers.stable import Stable
from peers.weights import Weights

from legato._native import barrier_ns
from legato.bench.processes import MIB, Noise
from legato.bench.prompts import Encode
from legato.bench.report import machine, number, write_json
from legato.bench.rounds import Spread
from legato.bench.serve import local_encode
from legato.errors import LegatoError, ModelError
from legato.weights import hub


@dataclass
class Race:
    """``figures``: contestant -> column -> one value a round; ``absent``: why somebody is not there."""

    encode: Encode
    room: Room
    rounds: int
    columns: list[Column]
    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)  # MiB after the loads
    starts: dict[str, tuple[float, int]] = field(default_factory=dict)  # as Stable measures them
    absent: dict[str, str] = field(default_factory=dict)
    noise: list[float] = field(default_factory=list)  # processors busy otherwise, by round
    barriers: dict[str, list[float]] = field(default_factory=dict)  # ns, after each column

    def prepare(self, runners: list[Contestant]) -> list[Contestant]:
        """Those that can be installed and fed here."""
        ready = []
        for runner in runners:
            try:
                runner.prepare()
                ready.append(runner)
            except (LegatoError, OSError) as error:
                self._leave_out(runner, error)
        return ready

    def run(self, runners: list[Contestant], keep: Callable[[], None]) -> None:
        """``keep`` is called after each round: a long race may be cut short."""
        with Stable(self.room, self._greet) as stable:
            for index in range(self.rounds):
                noise = Noise()
                for runner in runners:
                    if runner.name not in self.absent:
                        self._run_one(runner, index, stable)
                self.noise.append(noise.processors())
                keep()

    def _greet(self, engine: Any) -> None:
        columns.warm_up(engine, self.encode)
        columns.check_sense(engine, self.encode)

    def _run_one(self, runner: Contestant, index: int, stable: Stable) -> None:
        say(f"round {index + 1} of {self.rounds}: {runner.name}")
        found = self.figures.setdefault(runner.name, {})
        try:
            engine = stable.ready(runner)
            self.starts = stable.starts
            for column in self.columns:
                value = column.measure(engine, self.encode, index)
                found.setdefault(column.key, []).append(value)
                self.barriers.setdefault(runner.name, []).append(barrier_ns())
                say(f"    {column.title}: {number(value)} {column.unit}")
            self.memory[runner.name] = engine.resident_bytes() / MIB
        except (LegatoError, OSError) as error:
            self._leave_out(runner, error)
            stable.stop(runner)

    def _leave_out(self, runner: Contestant, error: Exception) -> None:
        self.absent[runner.name] = str(error)
        say(f"without {runner.name}: {error}")

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": machine(),
            "threads": self.room.threads,
            "processor": self.room.processor,
            "rounds": len(self.noise),
            "columns": {c.key: {"title": c.title, "unit": c.unit} for c in self.columns},
            "figures": {
                name: {
                    key: Spread.of(values).as_json() | {"rounds": values}
                    for key, values in found.items()
                }
                for name, found in self.figures.items()
            },
            "memory_mib": self.memory,
            "starts": {
                name: {"first_token_s": seconds, "memory_mib": held / MIB}
                for name, (seconds, held) in self.starts.items()
            },
            "absent": self.absent,
            "noise": self.noise,
            "barriers": self.barriers,
        }


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def main() -> int:
    arguments = _arguments()
    try:
        files = hub.resolve(arguments.model)
        if files.kind != "gguf":
            raise ModelError(f"{files.path} is not a GGUF file, which the others are made from")
        weights = Weights(files.path)
        race = Race(
            local_encode(str(files.path)),
            Room(arguments.threads, processor=arguments.processor),
            arguments.rounds,
            [COLUMNS[key] for key in arguments.column or COLUMNS],
        )
        runners = race.prepare(_chosen(arguments, contestants(weights)))
        content: dict[str, Any] = {"model": files.path.name, "quality": {}}
        race.run(runners, lambda: write_json(arguments.json, content | race.as_json()))
        quality = None if arguments.no_quality else measure_all(weights, runners, arguments.threads)
    except LegatoError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    for name, (seconds, held) in race.starts.items():
        say(f"{name}: first token {number(seconds)} s after its start, {number(held / MIB)} MiB")
    content["quality"] = quality or {}
    write_json(arguments.json, content | race.as_json())
    race_report.publish([Path(arguments.json)], Path(arguments.plots))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="smollm2", help="short name or GGUF file; all formats are made from it")
    add("--threads", type=int, default=2)
    add("--rounds", type=int, default=3)
    add("--processor", default="native", choices=PROCESSORS, help="Legato and llama.cpp alone")
    peers = [engine for engine in ENGINES if engine != LEGATO]
    add("--peer", action="append", choices=peers, help="beside this one only; may be repeated")
    add("--alone", action="store_true", help="no peer at all")
    add("--peers-only", action="store_true", help="without Legato: to be put beside a race of it")
    add("--format", action="append", help="this format only, of whoever has it; may be repeated")
    add("--contestant", action="append", metavar="NAME", help='as in the table: "vLLM bf16"')
    add("--column", action="append", choices=list(COLUMNS), help="this only; may be repeated")
    add("--no-quality", action="store_true", help="speed alone, without fidelity.py")
    add("--json", metavar="FILE", default="bench-results/race.json")
    add("--plots", metavar="DIR", default="bench-results", help="where the plots go")
    return parser.parse_args()


def _chosen(arguments: argparse.Namespace, runners: list[Contestant]) -> list[Contestant]:
    peers = [] if arguments.alone else arguments.peer or ENGINES
    chosen = [
        runner
        for runner in runners
        if (runner.engine in peers or runner.is_ours)
        and (arguments.processor == "native" or runner.engine in (LEGATO, LLAMA))
        and not (runner.is_ours and arguments.peers_only)
        and (not arguments.format or runner.format in arguments.format)
        and (not arguments.contestant or runner.name in arguments.contestant)
    ]
    if not chosen:
        known = ", ".join(runner.name for runner in runners)
        raise ModelError(f"nobody is left to run: there are {known}")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
