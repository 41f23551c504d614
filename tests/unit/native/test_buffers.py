"""Single operators in a program: what they leave in their buffers, with few rows and with many."""

import math
import threading

import numpy as np
import pytest
from batches import Sequences, sampling

from legato import _native as native

VOCABULARY, WIDTH = 50, 48
RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
ROWS = pytest.mark.parametrize("rows", [1, 5, 150])


class Bench:
    """A program whose first buffer holds the embedded tokens; run it, then look at a buffer."""

    def __init__(self, rows: int, scale: float = 1.0) -> None:
        self.rows = rows
        self.ids = RNG.integers(0, VOCABULARY, rows)
        self.program = native.Program(
            isa=native.supported_isas()[-1], threads=2, max_tokens=rows, max_logit_rows=rows
        )
        self.table = self.program.matrix("F32", VOCABULARY, WIDTH, TABLE)
        self.x = self.program.buffer(WIDTH)
        self.program.embed(self.table, self.x, scale)
        self.values = TABLE[self.ids].astype(np.float64) * scale

    def vector(self, count: int) -> tuple[int, np.ndarray]:
        values = RNG.normal(size=count).astype(np.float32)
        return self.program.vector(values), values.astype(np.float64)

    def matrix(self, rows: int, columns: int) -> tuple[int, np.ndarray]:
        values = RNG.normal(size=(rows, columns)).astype(np.float32)
        return self.program.matrix("F32", rows, columns, values), values.astype(np.float64)

    def run(self, head: bool = False) -> None:
        batch = Sequences([self.ids], VOCABULARY).batch([self.rows])
        if not head:
            batch.logit_rows, batch.sampling = np.zeros(0, np.int32), sampling(0, 0)
        self.program.run(batch)

    def expect(self, buffer: int, expected: np.ndarray) -> None:
        self.run()
        actual = self.program.activation(buffer, self.rows)
        # float32 sums of a few dozen terms, which may cancel
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=3e-6 * np.abs(expected).max())


def norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight


@ROWS
def test_embed_scales(rows: int) -> None:
    bench = Bench(rows, scale=6.5)
    bench.expect(bench.x, bench.values)


@ROWS
def test_rms_norm_elsewhere_and_in_place(rows: int) -> None:
    bench = Bench(rows)
    weight, values = bench.vector(WIDTH)
    out = bench.program.buffer(WIDTH)
    bench.program.rms_norm(bench.x, weight, out, 1e-6)
    bench.program.rms_norm(out, weight, out, 1e-6)
    bench.expect(out, norm(norm(bench.values, values), values))


@ROWS
def test_head_norm_leaves_other_columns(rows: int) -> None:
    bench = Bench(rows)
    weight, values = bench.vector(10)
    bench.program.head_norm(bench.x, weight, 1e-6, offset=7, heads=3, head_dim=10)
    expected = bench.values.copy()
    expected[:, 7:37] = norm(bench.values[:, 7:37].reshape(-1, 3, 10), values).reshape(-1, 30)
    bench.expect(bench.x, expected)


@ROWS
def test_linear_beside_others_then_added(rows: int) -> None:
    bench = Bench(rows)
    (a, left), (b, right), (c, back) = (
        bench.matrix(20, WIDTH),
        bench.matrix(13, WIDTH),
        bench.matrix(WIDTH, 33),
    )
    bias, offsets = bench.vector(13)
    y = bench.program.buffer(33)
    bench.program.linear(bench.x, a, y)
    bench.program.linear(bench.x, b, y, bias=bias, out_offset=20)
    bench.program.linear(y, c, bench.x, accumulate=True)
    bench.program.linear(bench.x, a, y)  # x has changed: its rows are prepared again
    first = np.hstack([bench.values @ left.T, bench.values @ right.T + offsets])
    second = bench.values + first @ back.T
    bench.expect(y, np.hstack([second @ left.T, first[:, 20:]]))


@pytest.mark.parametrize("heights", [(16, 32, 5), (7, 9, 16), (3,)])
def test_concatenated_matrices(heights: tuple[int, ...]) -> None:
    bench = Bench(5)
    parts = [RNG.normal(size=(height, WIDTH)).astype(np.float32) for height in heights]
    matrix = bench.program.matrix_concat([("F32", *part.shape, part) for part in parts])
    y = bench.program.buffer(sum(heights))
    bench.program.linear(bench.x, matrix, y)
    bench.expect(y, bench.values @ np.vstack(parts).T.astype(np.float64))


def test_concatenated_parts_must_match() -> None:
    bench = Bench(1)
    wide, half = np.zeros((16, 48), np.float32), np.zeros((16, 48), np.float16)
    for parts in (
        [],
        [("F32", 16, 48, wide), ("F16", 16, 48, half)],
        [("F32", 16, 48, wide), ("F32", 24, 32, wide)],
    ):
        with pytest.raises(ValueError):
            bench.program.matrix_concat(parts)


def gelu(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))


ACTIVATIONS = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "gelu": gelu,
}


@ROWS
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gated_and_add(rows: int, name: str) -> None:
    bench = Bench(rows)
    out, other = bench.program.buffer(20), bench.program.buffer(20)
    bench.program.gated(bench.x, 2, 25, out, name)
    bench.program.gated(bench.x, 3, 4, other, name)
    bench.program.add(out, other)
    x, act = bench.values, ACTIVATIONS[name]
    bench.expect(out, act(x[:, 2:22]) * x[:, 25:45] + act(x[:, 3:23]) * x[:, 4:24])


@ROWS
@pytest.mark.parametrize("interleaved", [False, True])
def test_rope_turns_part_of_each_head(rows: int, interleaved: bool) -> None:
    bench = Bench(rows)
    frequencies = np.array([1.0, 0.3, 0.01], np.float32)
    table = bench.program.rope_table(bench.program.vector(frequencies), 1.5)
    bench.program.rope(
        bench.x, table, offset=8, heads=4, head_dim=10, rotary_dim=6, interleaved=interleaved
    )
    angle = np.arange(rows)[:, None, None] * frequencies.astype(np.float64)
    cos, sin = np.cos(angle) * 1.5, np.sin(angle) * 1.5
    expected = bench.values.copy()
    heads = expected[:, 8:48].reshape(rows, 4, 10)
    first, second = (slice(0, 6, 2), slice(1, 6, 2)) if interleaved else (slice(0, 3), slice(3, 6))
    a, b = heads[..., first].copy(), heads[..., second].copy()
    heads[..., first], heads[..., second] = a * cos - b * sin, b * cos + a * sin
    bench.expect(bench.x, expected)


@ROWS
def test_head_scales_and_caps(rows: int) -> None:
    bench = Bench(rows)
    weight, values = bench.vector(WIDTH)
    bias, offsets = bench.vector(VOCABULARY)
    bench.program.head(bench.x, weight, 1e-6, bench.table, softcap=5.0, scale=0.25, bias=bias)
    bench.run(head=True)
    logits = norm(bench.values, values) @ TABLE.T.astype(np.float64) + offsets
    expected = 5 * np.tanh(logits * 0.25 / 5)
    np.testing.assert_allclose(bench.program.logits(), expected, rtol=1e-5, atol=1e-5)


def test_one_step_at_a_time() -> None:
    bench = Bench(150)
    out = bench.program.buffer(2048)
    for _ in range(20):
        bench.program.linear(bench.x, bench.matrix(2048, WIDTH)[0], out)
    refusals, steps = [], 40

    def work() -> None:
        for _ in range(steps):
            try:
                bench.run()
            except RuntimeError as error:
                refusals.append(str(error))

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(refusals) < 3 * steps
    assert all("already in progress" in refusal for refusal in refusals)
