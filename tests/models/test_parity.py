"""Every family against transformers, on tiny random float32 checkpoints.

Logits differ by at most 1e-3 at every position, and 64 greedy tokens are the same.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from stepping import Stepper

from legato import models
from legato.config import EngineConfig

VOCAB = 199
PROMPT = [random.Random(5).randrange(VOCAB) for _ in range(61)]
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}
GEMMA = {
    "head_dim": 32,
    "num_hidden_layers": 7,
    "sliding_window": 16,
    "query_pre_attn_scalar": 24,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
    },
}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-one-kv-head": ("Llama", {"num_key_value_heads": 1}),
    "llama-all-kv-heads": ("Llama", {"num_key_value_heads": 4}),
    "llama-wide-heads": ("Llama", {"head_dim": 48}),
    "llama-linear": ("Llama", {"rope_parameters": LINEAR}),
    "llama-llama3": ("Llama", {"rope_parameters": LLAMA3}),
    "llama-yarn": ("Llama", {"rope_parameters": YARN}),
    "llama-yarn-factors": (
        "Llama",
        {"rope_parameters": YARN | {"beta_fast": 8, "beta_slow": 2, "attention_factor": 0.8}},
    ),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral-window": ("Mistral", {"sliding_window": 19}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 17, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "qwen3-biases": ("Qwen3", {"head_dim": 16, "attention_bias": True}),
    "gemma3": ("Gemma3Text", GEMMA),
    "gemma3-yarn": (
        "Gemma3Text",
        GEMMA
        | {
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
                "full_attention": YARN,
            },
            "layer_types": ["full_attention", "sliding_attention"] * 3 + ["full_attention"],
        },
    ),
}


def reference(family: str, options: dict[str, Any]) -> torch.nn.Module:
    """A random model. Norms and biases too, which are born as ones and zeros and would hide errors."""
    config = getattr(transformers, f"{family}Config")(**(SIZES | options))
    torch.manual_seed(11)
    model = getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += torch.randn_like(parameter) * 0.2
    return model.float().eval()


@torch.no_grad()
def reference_logits(model: torch.nn.Module, tokens: list[int]) -> np.ndarray:
    return model(torch.tensor([tokens]), use_cache=False).logits[0].numpy()


@pytest.mark.parametrize("case", CASES)
def test_parity(case: str, tmp_path: Path) -> None:
    family, options = CASES[case]
    oracle = reference(family, options)
    oracle.save_pretrained(tmp_path)
    check(oracle, tmp_path)


def check(oracle: torch.nn.Module, path: Path, tolerance: float = 1e-3) -> None:
    config = EngineConfig(
        model=str(path), kv_cache_dtype="float32", kv_cache_memory=2**26, threads=1
    )
    stepper = Stepper(models.load(config))
    logits = np.concatenate([stepper.feed(PROMPT[:37]), stepper.feed(PROMPT[37:])])
    expected = reference_logits(oracle, PROMPT)
    assert np.std(expected) > 0.3  # else any answer would pass
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)
    answer = stepper.continue_greedily(logits, 64)
    # one run over prompt and answer tells what greedy decoding takes at each position
    choices = reference_logits(oracle, PROMPT + answer).argmax(axis=1)
    assert choices[len(PROMPT) - 1 : -1].tolist() == answer
