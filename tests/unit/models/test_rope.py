"""Frequencies against transformers' own functions, over many settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from legato.errors import ModelError, UnsupportedModelError
from legato.models.rope import inverse_frequencies, read_rope
from legato.weights.model_config import ModelConfig

BASE: dict[str, Any] = {"max_position_embeddings": 4096, "rope_theta": 10000.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0}
ORIGINAL = {"original_max_position_embeddings": 1024}


def config(**values: Any) -> ModelConfig:
    return ModelConfig(Path("config.json"), BASE | values)


@pytest.mark.parametrize("base", [10000.0, 500000.0])
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 3.5},
        LLAMA3 | ORIGINAL,
        LLAMA3 | {"factor": 32.0, "low_freq_factor": 2.0, "original_max_position_embeddings": 512},
        YARN | ORIGINAL,
        YARN,  # the original length is then the context length
        YARN | ORIGINAL | {"factor": 0.5},
        YARN | ORIGINAL | {"beta_fast": 64, "beta_slow": 0.5, "truncate": False},
        YARN | ORIGINAL | {"attention_factor": 1.7},
        YARN | ORIGINAL | {"mscale": 0.707, "mscale_all_dim": 1.2},
        YARN | {"original_max_position_embeddings": 16},
    ],
)
def test_against_transformers(scaling: dict[str, Any], dim: int, base: float) -> None:
    theirs = LlamaConfig(
        head_dim=dim,
        max_position_embeddings=4096,
        rope_parameters=scaling | {"rope_theta": base},
    )
    expected, scale = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](theirs, "cpu")
    for values in (
        {"rope_theta": base, "rope_scaling": scaling},
        {"rope_theta": None, "rope_parameters": scaling | {"rope_theta": base}},
    ):
        rope = read_rope(config(**values), dim)
        np.testing.assert_allclose(inverse_frequencies(rope), expected.numpy(), rtol=2e-5)
        assert rope.scale == pytest.approx(scale)


def test_old_names_of_the_type() -> None:
    rope = read_rope(config(rope_scaling={"type": "linear", "factor": 2.0}), 64)
    assert inverse_frequencies(rope)[0] == 0.5
    assert read_rope(config(rope_scaling=None), 64).scaling is None
    assert read_rope(config(rope_scaling={}), 64).scaling is None


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "mrope", "su", "nonsense"])
def test_unsupported_types_are_named(kind: str) -> None:
    with pytest.raises(
        UnsupportedModelError, match=rf"config\.json: rope_scaling\.rope_type: '{kind}'"
    ):
        read_rope(config(rope_scaling={"rope_type": kind, "factor": 2.0}), 64)


@pytest.mark.parametrize(
    ("scaling", "key"),
    [
        ({"rope_type": "linear"}, "factor"),
        ({"rope_type": "linear", "factor": "2"}, "factor"),
        ({"rope_type": "linear", "factor": 0}, "factor"),
        ({"rope_type": "linear", "factor": 2.0, "surprise": 1}, "surprise"),
        ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}, "high_freq_factor"),
        (LLAMA3 | {"high_freq_factor": 1.0}, "high_freq_factor"),
        ({"rope_type": "yarn"}, "factor"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_type": "default", "factor": 2.0}, "factor"),
        ({"rope_type": 7}, "rope_type"),
    ],
)
def test_spoilt_scalings_name_the_key(scaling: dict[str, Any], key: str) -> None:
    with pytest.raises(ModelError, match=rf"rope_scaling\.{key}: "):
        read_rope(config(rope_scaling=scaling), 64)


def test_a_base_is_needed() -> None:
    with pytest.raises(ModelError, match="rope_theta: the key is missing"):
        read_rope(config(rope_theta=None), 64)
    assert read_rope(config(rope_theta=None), 64, default_base=10000.0).base == 10000.0
