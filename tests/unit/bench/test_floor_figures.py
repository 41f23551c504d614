"""Ours beside theirs: ratios and verdicts of the speed floor."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
from comparison import Figure


def test_a_ratio_is_that_of_each_pair_of_rounds() -> None:
    figure = Figure("decode", "tokens/s", floor=1.5)
    for ours, theirs in ((200.0, 100.0), (30.0, 10.0), (90.0, 90.0)):
        figure.add(ours, theirs)
    assert (figure.ratio.low, figure.ratio.median, figure.ratio.high) == (1.0, 2.0, 3.0)
    assert figure.met is True
    assert figure.goal == ">= 1.5x"


def test_less_is_better_for_times() -> None:
    figure = Figure("TTFT", "ms", lower_is_better=True)
    figure.add(50.0, 200.0)
    assert figure.ratio.median == 4.0
    assert figure.met is None


@pytest.mark.parametrize(("value", "met"), [(149.0, True), (151.0, False)])
def test_a_limit_needs_no_peer(value: float, met: bool) -> None:
    figure = Figure("memory", "MB", floor=150.0, relative=False)
    figure.add(value)
    assert figure.met is met


def test_without_a_peer_a_ratio_is_not_judged() -> None:
    figure = Figure("decode", "tokens/s", floor=1.5)
    figure.add(100.0)
    assert figure.met is None
    assert figure.as_json()["ratio"]["median"] != figure.as_json()["ratio"]["median"]  # NaN
