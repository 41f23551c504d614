"""On paper: what the laws of docs/scaling.md say of other machines and models.

    python benchmarks/extrapolate.py [--memory 0.7] [--arithmetic 0.5] [--barrier-us 1.0]

A step of ``n`` sequences with ``context`` tokens each takes

    barriers + max(weights / bandwidth, n * operations / peak) + n * context * kv / bandwidth

where bandwidth and peak are the shares of the machine's own that kernels reach, and each operator ends at a
barrier that grows with the logarithm of the threads. Nothing here is measured but the shares, by
``make bench-peers`` on the machine at hand.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

from legato.bench.report import number

OPERATORS = 6  # of a layer that end at a barrier


@dataclass(frozen=True)
class Machine:
    """``operations``: int8 multiplications and additions of a core in a cycle; memory in GB/s."""

    name: str
    cores: int
    ghz: float
    operations: int
    memory: float

    @property
    def peak(self) -> float:
        """Operations a second."""
        return self.cores * self.ghz * 1e9 * self.operations


@dataclass(frozen=True)
class Model:
    """``weights``: bytes read in a step; ``kv``: bytes of a token in float16."""

    name: str
    layers: int
    parameters: float
    weights: float
    kv: float


@dataclass(frozen=True)
class Shares:
    """Of bandwidth and peak that the kernels reach; seconds of a barrier of two threads."""

    memory: float
    arithmetic: float
    barrier: float

    def step(self, machine: Machine, model: Model, sequences: int, context: int) -> float:
        """Seconds."""
        bandwidth = self.memory * machine.memory * 1e9
        operations = 2 * model.parameters * sequences / (self.arithmetic * machine.peak)
        barriers = model.layers * OPERATORS * self.barrier * math.log2(max(2, machine.cores))
        reading = sequences * context * model.kv / bandwidth
        return barriers + max(model.weights / bandwidth, operations) + reading

    def prefill(self, machine: Machine, model: Model) -> float:
        """Tokens a second of long prompts, before attention counts."""
        return self.arithmetic * machine.peak / (2 * model.parameters)


# VNNI on 512 bits: 128 operations a cycle where a unit is half as wide, 256 on Zen 5; AMX 2,048
MACHINES = (
    Machine("2 cores of Zen 4, virtual", 2, 3.7, 128, 40),
    Machine("2 cores of Zen 5, virtual", 2, 3.8, 256, 44),
    Machine("desktop: 16 cores of Zen 5, 2 channels DDR5-6000", 16, 4.5, 256, 80),
    Machine("server: 64 cores of Zen 5, 12 channels DDR5-6000", 64, 3.5, 256, 480),
    Machine("server: 128 cores with AMX, 12 channels of 8800", 128, 2.5, 2048, 700),
)
MODELS = (
    Model("SmolLM2-135M, Q4_1", 30, 134.5e6, 84e6, 23_040),
    Model("Llama-3.2-1B, Q4_1", 16, 1.24e9, 0.77e9, 32_768),
    Model("Qwen2.5-7B, 4 bits", 28, 7.6e9, 4.4e9, 57_344),
    Model("Llama-3.3-70B, 4 bits", 80, 70.6e9, 40e9, 327_680),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", type=float, default=0.7, help="share of the bandwidth reached")
    parser.add_argument("--arithmetic", type=float, default=0.4, help="share of the int8 peak")
    parser.add_argument("--barrier-us", type=float, default=1.0, help="of two threads")
    parser.add_argument("--context", type=int, default=1024)
    options = parser.parse_args()
    shares = Shares(options.memory, options.arithmetic, options.barrier_us * 1e-6)
    print(
        "| machine | model | prefill | 1 stream | 32 streams | 256 streams |\n|---|---|---|---|---|---|"
    )
    for machine in MACHINES:
        for model in MODELS:
            cells = [number(_rounded(shares.prefill(machine, model)))]
            for count in (1, 32, 256):
                rate = count / shares.step(machine, model, count, options.context)
                cells.append(number(_rounded(rate)))
            print(f"| {machine.name} | {model.name} | " + " | ".join(cells) + " |")


def _rounded(value: float) -> float:
    """Two digits: more are not known."""
    digits = math.floor(math.log10(value)) - 1
    return round(value, -digits)


if __name__ == "__main__":
    main()
