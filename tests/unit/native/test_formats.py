"""Weight formats, against the decoders of the ``gguf`` package: rows bit for bit, products within their roundings."""

import gguf
import numpy as np
import pytest
from batches import Sequences, sampling

from legato import _native as native

ROWS, COLUMNS = 37, 512
ISAS = pytest.mark.parametrize("isa", native.supported_isas())
FORMATS = pytest.mark.parametrize("name", native.FORMATS)
SCALES = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
"""Where a block keeps its half-precision scales; at 0 in the other quantised formats."""


def checkpoint(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Random bytes [ROWS, ...] in a format, and the float32 values [ROWS, COLUMNS] they stand for."""
    rng = np.random.default_rng(7)
    kind = gguf.GGMLQuantizationType[name]
    if name in ("F32", "F16", "BF16"):
        raw = gguf.quants.quantize(rng.normal(size=(ROWS, COLUMNS)).astype(np.float32), kind)
        raw = np.ascontiguousarray(raw).view(np.uint8)
    else:
        values, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (ROWS * COLUMNS // values, size), dtype=np.uint8)
        for at in SCALES.get(name, (0,)):  # finite: any sign, 2^-9 to 1
            scale = rng.uniform(2**-9, 1, len(blocks)) * rng.choice([-1, 1], len(blocks))
            blocks[:, at : at + 2] = scale.astype(np.float16).view(np.uint8).reshape(-1, 2)
        raw = blocks.reshape(ROWS, -1)
    if name in ("F32", "F16"):
        return raw, raw.view(np.float32 if name == "F32" else np.float16).astype(np.float32)
    return raw, gguf.quants.dequantize(raw, kind)


def program(isa: str) -> native.Program:
    return native.Program(isa=isa, threads=2, max_tokens=ROWS, max_logit_rows=1)


def run(made: native.Program) -> None:
    batch = Sequences([np.arange(ROWS)], ROWS).batch([ROWS])
    batch.logit_rows, batch.sampling = np.zeros(0, np.int32), sampling(0, 0)
    made.run(batch)


@ISAS
@FORMATS
def test_rows_are_what_the_format_says(name: str, isa: str) -> None:
    raw, expected = checkpoint(name)
    made = program(isa)
    out = made.buffer(COLUMNS)
    made.embed(made.matrix(name, ROWS, COLUMNS, raw), out)
    run(made)
    np.testing.assert_array_equal(made.activation(out, ROWS), expected)


@ISAS
@FORMATS
def test_products_see_inputs_rounded_to_eight_bits_at_worst(name: str, isa: str) -> None:
    raw, weights = checkpoint(name)
    inputs = np.random.default_rng(8).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    made = program(isa)
    x, y = made.buffer(COLUMNS), made.buffer(ROWS)
    made.embed(made.matrix("F32", ROWS, COLUMNS, inputs), x)
    made.linear(x, made.matrix(name, ROWS, COLUMNS, raw), y)
    run(made)
    largest = np.abs(inputs).reshape(ROWS, -1, 32).max(-1).repeat(32, -1)
    rounding = np.abs(inputs) * 2**-8 if name[0] != "Q" else largest / 127 * 0.501
    wide = weights.astype(np.float64)
    # float32 sums: their roundings, of terms that are no larger than a format's largest product and minimum
    sums = 1e-4 * np.abs(wide).sum(-1) * largest.max()
    error = np.abs(made.activation(y, ROWS) - inputs.astype(np.float64) @ wide.T)
    assert (error <= rounding @ np.abs(wide).T + sums).all()
