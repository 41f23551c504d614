"""The race beside the peers: what is compared, how a curve's law is found, what a plot shows."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
import kept
import plots
import race_report
from columns import COLUMNS, check_sense, checked, is_sane
from divergence import compare, compare_likeliest
from laws import Law

from legato.bench.load import Streamed
from legato.errors import EngineError


class Told:
    """An engine that gives the texts it was made with, of as many tokens as it says."""

    def __init__(self, *texts: str, tokens: int = 4) -> None:
        self._texts, self._tokens = list(texts), tokens

    def run(self, prompts: Any, output_len: int, concurrency: int) -> list[Streamed]:
        return [
            Streamed(0.0, 1.0, [0.5], len(prompt), self._tokens, 0, self._texts.pop(0))
            for prompt in prompts
        ]

    def resident_bytes(self) -> int:
        return 0


def test_answers_of_a_wrong_length_do_not_count() -> None:
    assert checked(Told("a word"), [[1, 2]], 4, 1)[0].output_tokens == 4
    with pytest.raises(EngineError, match="asked for 2 prompt and 4 output tokens"):
        checked(Told("a word", tokens=3), [[1, 2]], 4, 1)


@pytest.mark.parametrize("text", ["", "  \n", "\ufffd\ufffd\ufffda", "ꙮꙮꙮꙮ abc"])
def test_noise_does_not_count(text: str) -> None:
    assert not is_sane(text)
    with pytest.raises(EngineError, match="no sane text"):
        checked(Told(text), [[1, 2]], 4, 1)


def test_an_engine_must_know_two_plain_things_of_three() -> None:
    def encode(text: str) -> list[int]:
        return [1]

    check_sense(Told(" Paris.", " six", " Friday"), encode)
    with pytest.raises(EngineError, match="only 1 of 3"):
        check_sense(Told(" London", " six", " Friday"), encode)


def content(ours: list[float], theirs: list[float], column: str) -> dict[str, Any]:
    def figures(rounds: list[float]) -> dict[str, Any]:
        middle = float(np.median(rounds))
        return {
            column: {"median": middle, "min": min(rounds), "max": max(rounds), "rounds": rounds}
        }

    return {
        "columns": {column: {}},
        "figures": {"Legato Q4_1": figures(ours), "vLLM bf16": figures(theirs)},
        "memory_mib": {},
    }


def test_a_ratio_is_of_each_round_and_judged_by_its_median() -> None:
    line = race_report.verdicts(content([10, 30, 20], [5, 10, 10], "decode")).splitlines()[-1]
    assert "| 2x (2..3) |" in line
    assert line.endswith("| met |")
    line = race_report.verdicts(content([19, 19, 19], [10, 10, 10], "decode")).splitlines()[-1]
    assert line.endswith("| **missed** |")


def test_a_limit_is_ours_alone_and_less_is_better() -> None:
    assert COLUMNS["chat"].better(5.0, 20.0) == 4.0
    line = race_report.verdicts(content([9.0], [90.0], "chat")).splitlines()[-1]
    assert "| 10x |" in line and line.endswith("| met |")
    assert race_report.verdicts(content([11.0], [90.0], "chat")).endswith("| **missed** |")


def test_a_law_is_found_again_and_a_break_is_seen() -> None:
    points = [(float(n), 2 + 0.5 * n) for n in (1, 4, 16, 64)]
    law = Law.fit(points, (0, 1))
    assert law.factors == pytest.approx((2, 0.5))
    assert law.shown("n", "ms") == "2 ms + 0.5 ms * n"
    ((_, off),) = law.breaks([(256.0, 260.0)])
    assert off == pytest.approx(1.0)


def test_plots_are_well_formed_and_longer_bars_are_larger_values(tmp_path: Path) -> None:
    bars = [plots.Bar("Legato Q4_1", 200, 190, 210), plots.Bar("vLLM <bf16>", 100, 100, 100)]
    plots.write_bars(tmp_path / "bars.svg", [plots.Panel("decode & more", bars=bars)])
    tree = ElementTree.parse(tmp_path / "bars.svg")
    space = {"svg": "http://www.w3.org/2000/svg"}
    widths = [float(bar.attrib["width"]) for bar in tree.iterfind("svg:rect", space)]
    assert widths[0] == pytest.approx(2 * widths[1], rel=1e-3)


def test_a_higher_point_of_a_line_is_higher_up(tmp_path: Path) -> None:
    line = plots.Line("Legato Q4_1", [(1, 10), (4, 100), (256, 1000)])
    for log_y in (False, True):
        plots.write_lines(
            tmp_path / "lines.svg", [plots.Panel("output", "requests", lines=[line], log_y=log_y)]
        )
        tree = ElementTree.parse(tmp_path / "lines.svg")
        (curve,) = tree.iterfind("{http://www.w3.org/2000/svg}polyline")
        places = [tuple(map(float, pair.split(","))) for pair in curve.attrib["points"].split()]
        assert places == sorted(places) and [y for _, y in places] == sorted(
            (y for _, y in places), reverse=True
        )


def test_the_truth_has_no_divergence_and_its_own_perplexity() -> None:
    logits = np.random.default_rng(0).normal(size=(6, 11)).astype(np.float32)
    ids = [1, 5, 2, 7, 3, 3]
    same = compare(logits, logits, ids, window=3)
    assert same["mean_kl"] == pytest.approx(0, abs=1e-12)
    assert same["perplexity"] == same["reference_perplexity"]
    worse = compare(logits, logits[::-1], ids, window=3)
    assert worse["mean_kl"] > 0.1


def test_what_a_server_tells_of_a_prompt_bounds_the_divergence_from_below() -> None:
    random = np.random.default_rng(1)
    truth, other = random.normal(size=(2, 6, 11)).astype(np.float32)
    ids, window = [1, 5, 2, 7, 3, 3], 3
    shifted = other - np.log(np.exp(other).sum(axis=1, keepdims=True))
    told: list[dict[int, float]] = []
    for row, values in enumerate(shifted):
        ranked = [*np.argsort(-values)[:3], *([ids[row + 1]] if row < 5 else [])]
        told.append({} if row % window == 2 else {int(i): float(values[i]) for i in ranked})
    rows = [row for row in range(6) if row % window != 2]
    whole = compare(truth[rows], other[rows], [ids[row] for row in rows])
    bound = compare_likeliest(truth, told, ids, window)
    assert 0 < bound["mean_kl_at_least"] < whole["mean_kl"]
    surprises = [-shifted[row][ids[row + 1]] for row in rows]
    assert bound["perplexity"] == pytest.approx(np.exp(np.mean(surprises)))


def test_a_ratio_that_grew_by_more_than_a_tenth_is_a_regression() -> None:
    stored = {"prefill / arithmetic": 10.0, "decode / memory": 1.0}
    assert kept.regressions({"prefill / arithmetic": 10.9, "decode / memory": 0.5}, stored) == []
    assert kept.regressions({"prefill / arithmetic": 11.1, "decode / memory": 1.0}, stored) == [
        "prefill / arithmetic"
    ]


def test_races_are_put_together_and_the_first_one_counts() -> None:
    first, second = content([10.0], [5.0], "decode"), content([99.0], [99.0], "decode")
    for race in (first, second):
        race |= {"quality": {}, "absent": {}, "noise": [0.1]}
    second["figures"]["llama.cpp Q4_0"] = second["figures"]["vLLM bf16"]
    both = race_report.merged([first, second])
    assert both["figures"]["Legato Q4_1"]["decode"]["median"] == 10.0
    assert both["figures"]["llama.cpp Q4_0"]["decode"]["median"] == 99.0


def test_a_dot_that_is_faster_and_closer_lies_above_and_to_the_left(tmp_path: Path) -> None:
    dots = [plots.Dot("Legato Q4_1", 0.001, 300.0), plots.Dot("vLLM bf16", 0.01, 100.0)]
    plots.write_dots(tmp_path / "dots.svg", [plots.Panel("decode", "KL", dots=dots)])
    tree = ElementTree.parse(tmp_path / "dots.svg")
    slow, fast = (
        (float(dot.attrib["cx"]), float(dot.attrib["cy"]))
        for dot in tree.iterfind("{http://www.w3.org/2000/svg}circle")
    )
    assert fast[0] < slow[0] and fast[1] < slow[1]
