"""GGUF files against transformers: every architecture in float32, every format on a llama."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_export import export
from stepping import Stepper
from test_parity import GEMMA, LINEAR, LLAMA3, PROMPT, YARN, check, reference, reference_logits

from legato import models
from legato.config import EngineConfig

LINEAR_KEYS = {"rope.scaling.type": "linear", "rope.scaling.factor": 2.5}
YARN_KEYS = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 64,
}
GEMMA_KEYS = {"attention.sliding_window": 16}
HEAD = {"head_dim": 16}
GEMMA_FILE = GEMMA | {
    "query_pre_attn_scalar": 32,
    "rope_parameters": GEMMA["rope_parameters"]
    | {"full_attention": {"rope_type": "default", "rope_theta": 1000000.0}},
}

CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("Llama", "llama", HEAD, {}),
    "llama-tied": ("Llama", "llama", HEAD | {"tie_word_embeddings": True}, {}),
    "llama-biases": ("Llama", "llama", HEAD | {"attention_bias": True, "mlp_bias": True}, {}),
    "llama-linear": ("Llama", "llama", HEAD | {"rope_parameters": LINEAR}, LINEAR_KEYS),
    "llama-yarn": ("Llama", "llama", HEAD | {"rope_parameters": YARN}, YARN_KEYS),
    "mistral": (
        "Mistral",
        "llama",
        HEAD | {"sliding_window": 19},
        {"attention.sliding_window": 19},
    ),
    "qwen2": ("Qwen2", "qwen2", HEAD, {}),
    "qwen3": ("Qwen3", "qwen3", {"head_dim": 32}, {}),
    "gemma3": ("Gemma3Text", "gemma3", GEMMA_FILE, GEMMA_KEYS),
    "gemma3-linear": (
        "Gemma3Text",
        "gemma3",
        GEMMA | {"query_pre_attn_scalar": 32},
        GEMMA_KEYS | {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_architectures(case: str, tmp_path: Path) -> None:
    family, architecture, options, keys = CASES[case]
    oracle = reference(family, options)
    export(oracle, architecture, tmp_path / "tiny.gguf", extra=keys)
    check(oracle, tmp_path / "tiny.gguf")


def test_llama3_as_frequency_factors(tmp_path: Path) -> None:
    """llama.cpp writes the scaling of Llama 3 as a tensor that divides the frequencies."""
    oracle = reference("Llama", HEAD | {"rope_parameters": LLAMA3})
    scaled = oracle.model.rotary_emb.inv_freq.numpy()
    plain = 10000.0 ** -(np.arange(0, 16, 2) / 16)
    factors = {"rope_freqs.weight": (plain / scaled).astype(np.float32)}
    export(oracle, "llama", tmp_path / "tiny.gguf", extra_tensors=factors)
    check(oracle, tmp_path / "tiny.gguf")


WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "initializer_range": 0.08}
# relative error of the logits. Quantised formats round activations to 8 bits, BF16 to bfloat16
# where the processor multiplies it
FORMATS = {"F32": 1e-5, "F16": 1e-5, "BF16": 0.02} | dict.fromkeys(
    ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"], 0.03
)


def relative_error(oracle: Any, path: Path) -> float:
    """Root mean square of the logits' differences over that of the logits."""
    config = EngineConfig(
        model=str(path), kv_cache_dtype="float32", kv_cache_memory=2**26, threads=1
    )
    logits = Stepper(models.load(config)).feed(PROMPT)
    expected = reference_logits(oracle, PROMPT)
    return float(np.linalg.norm(logits - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("format_name", FORMATS)
def test_formats(format_name: str, tmp_path: Path) -> None:
    oracle = reference("Llama", WIDE)
    export(oracle, "llama", tmp_path / "tiny.gguf", choose=lambda name: format_name)
    assert relative_error(oracle, tmp_path / "tiny.gguf") < FORMATS[format_name]


def test_mixed_formats(tmp_path: Path) -> None:
    """Files mix formats inside a layer: q, k and v, or gate and up, then are separate products."""
    mix = {
        "attn_q": "Q8_0", "attn_k": "F16", "attn_v": "Q6_K", "attn_output": "F32",
        "ffn_gate": "Q4_K", "ffn_up": "Q5_0", "ffn_down": "BF16",
    }  # fmt: skip

    def choose(name: str) -> str:
        part = name.split(".")[-2]
        return mix.get(part, "Q8_0")

    oracle = reference("Llama", WIDE | {"attention_bias": True})
    export(oracle, "llama", tmp_path / "tiny.gguf", choose=choose)
    assert relative_error(oracle, tmp_path / "tiny.gguf") < 0.03
