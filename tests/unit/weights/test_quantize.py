"""Quantising on load, against the gguf package: the same bytes for Q8_0, no worse for Q4_1."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from legato.errors import ModelError
from legato.weights.quantize import encode_q4_1, encode_q8_0, quantize, target_format
from legato.weights.tensor import Tensor

KINDS = gguf.GGMLQuantizationType


def tensor(values: np.ndarray, format_name: str = "F32") -> Tensor:
    data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return Tensor("w", "stored.w", Path("file"), format_name, values.shape, data)


def blocks(seed: int, count: int = 500) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(count, 32)).astype(np.float32)
    values[0] = 0
    values[1] = 3.25  # constant
    values[2] = np.linspace(-1, 1, 32)
    values[3] *= 1e-9  # vanishes in f16
    return values


def test_q8_0_is_bit_equal_to_the_reference() -> None:
    values = blocks(1)
    expected = gguf.quants.quantize(values, KINDS.Q8_0)
    np.testing.assert_array_equal(encode_q8_0(values), expected)


def test_q4_1_is_better_than_the_reference() -> None:
    values = blocks(2)[4:]

    def error(data: np.ndarray) -> np.ndarray:
        return np.square(gguf.quants.dequantize(data, KINDS.Q4_1) - values).sum(axis=1)

    ours, theirs = error(encode_q4_1(values)), error(gguf.quants.quantize(values, KINDS.Q4_1))
    assert ours.sum() < theirs.sum() * 0.94


def test_q4_1_of_blocks_that_fit_is_exact() -> None:
    values = np.stack(
        [np.zeros(32), np.full(32, 3.25), np.arange(32) // 2 * 0.5 - 2, -np.arange(32) % 16]
    )
    data = encode_q4_1(values.astype(np.float32))
    np.testing.assert_array_equal(gguf.quants.dequantize(data, KINDS.Q4_1), values)


@pytest.mark.parametrize("format_name", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("target", ["Q8_0", "Q4_1"])
def test_every_float_format_can_be_quantised(format_name: str, target: str) -> None:
    values = np.random.default_rng(3).normal(size=(40, 64)).astype(np.float32)
    stored = {
        "F32": values,
        "F16": values.astype(np.float16),
        "BF16": (values.view(np.uint32) >> 16).astype(np.uint16),
    }[format_name]
    source = tensor(stored, format_name)
    result = quantize(source, target)
    assert (result.format, result.shape) == (target, (40, 64))
    encode = {"Q8_0": encode_q8_0, "Q4_1": encode_q4_1}[target]
    expected = encode(source.values().reshape(-1, 32)).reshape(-1)
    np.testing.assert_array_equal(result.data, expected)


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    source = tensor(np.random.default_rng(4).normal(size=(37, 96)).astype(np.float32))
    whole = quantize(source, "Q4_1").data
    monkeypatch.setattr("legato.weights.quantize.CHUNK_ELEMENTS", 200)
    np.testing.assert_array_equal(quantize(source, "Q4_1").data, whole)


def test_which_tensors_are_quantised() -> None:
    matrix = tensor(np.zeros((4, 64), np.float32))
    assert target_format(matrix, "none", table=False) == "F32"
    assert target_format(matrix, "int8", table=False) == "Q8_0"
    assert target_format(matrix, "int4", table=False) == "Q4_1"
    assert target_format(matrix, "int4", table=True) == "Q8_0"
    assert target_format(tensor(np.zeros(64, np.float32)), "int8", table=False) == "F32"
    assert target_format(tensor(np.zeros((4, 40), np.float32)), "int8", table=False) == "F32"
    quantised = Tensor("w", "w", Path("f"), "Q5_0", (4, 64), np.zeros(0, np.uint8))
    assert target_format(quantised, "int4", table=False) == "Q5_0"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_name_the_tensor(bad: float) -> None:
    values = np.zeros((4, 32), np.float32)
    values[2, 5] = bad
    with pytest.raises(ModelError, match=r"file: tensor 'stored\.w'"):
        quantize(tensor(values), "Q8_0")
