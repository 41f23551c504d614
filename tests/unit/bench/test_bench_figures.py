"""Prompts, percentiles, medians: what the benchmarks' figures are made of."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from time import perf_counter, sleep

import numpy as np
import pytest

from legato.bench.processes import (
    Noise,
    ProcessorUse,
    family,
    machine_busy_seconds,
    processor_seconds,
    resident_bytes,
)
from legato.bench.prompts import WORDS, make_prompts
from legato.bench.report import number, readable, write_json
from legato.bench.rounds import Spread, percentile, summarise
from legato.errors import RequestError


def encode(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


def test_prompts_have_the_asked_length_and_differ() -> None:
    prompts = make_prompts(encode, count=20, length=50, seed=3)
    assert {len(prompt) for prompt in prompts} == {50}
    assert all(one[:4] != other[:4] for one, other in combinations(prompts, 2))
    assert prompts == make_prompts(encode, count=20, length=50, seed=3)
    assert prompts[0] != make_prompts(encode, count=1, length=50, seed=4)[0]


def test_a_shared_prefix_is_shared_by_all() -> None:
    prompts = make_prompts(encode, count=5, length=40, shared_prefix=30)
    assert {len(prompt) for prompt in prompts} == {40}
    assert len({tuple(prompt[:30]) for prompt in prompts}) == 1
    assert len({tuple(prompt[30:]) for prompt in prompts}) == 5
    with pytest.raises(RequestError, match="shared-prefix"):
        make_prompts(encode, count=1, length=40, shared_prefix=40)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 101])
def test_percentiles_are_numpys(count: int) -> None:
    values = [random.Random(count).random() for _ in range(count)]
    for share in (0.0, 0.5, 0.9, 0.99, 1.0):
        assert percentile(values, share) == pytest.approx(np.percentile(values, share * 100))
    assert math.isnan(percentile([], 0.5))


def test_rounds_become_median_and_spread() -> None:
    rounds = [{"a_ms": 3.0}, {"a_ms": 1.0, "b_ms": math.nan}, {"a_ms": 2.0, "b_ms": 5.0}]
    assert summarise(rounds) == {"a_ms": Spread(2.0, 1.0, 3.0), "b_ms": Spread(5.0, 5.0, 5.0)}


def test_names_and_numbers_are_readable() -> None:
    assert readable("inter_token_p50_ms") == "inter token p50 (ms)"
    assert readable("output_tokens_per_s") == "output (tokens/s)"
    shown = [number(value) for value in (0, 0.1234, 1.234, 12.34, 123.4, 12345.6, math.nan)]
    assert shown == ["0", "0.123", "1.23", "12.3", "123", "12,346", "-"]


def test_json_has_no_nan(tmp_path: Path) -> None:
    target = tmp_path / "new" / "report.json"
    write_json(target, {"rounds": [{"a": math.nan, "b": 1.5}]})
    assert json.loads(target.read_text()) == {"rounds": [{"a": None, "b": 1.5}]}


def test_processes_are_seen() -> None:
    burn = "import time; x = bytearray(40_000_000)\nprint('x', flush=True)\nwhile True: pass"
    child = subprocess.Popen([sys.executable, "-c", burn], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        assert {os.getpid(), child.pid} <= set(family(os.getpid()))
        assert resident_bytes([child.pid]) > 40_000_000
        use, noise = ProcessorUse([child.pid]), Noise()
        before, start, everything = (
            processor_seconds(child.pid),
            perf_counter(),
            machine_busy_seconds(),
        )
        while processor_seconds(child.pid) < before + 0.3:
            sleep(0.01)
        noise_seconds = noise.processors() * (perf_counter() - start)
        use.stop()
        assert 0 < use.by_process[child.pid] < 1.5
        assert noise_seconds < machine_busy_seconds() - everything - 0.25  # a child is not noise
    finally:
        child.kill()
        child.wait()
    assert resident_bytes([child.pid]) == 0
