"""config.json files as they are published: what they leave out, and what they add, must not stop them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from legato.models.registry import read_spec
from legato.models.rope import LinearScaling, Llama3Scaling
from legato.models.spec import ModelSpec
from legato.weights.model_config import ModelConfig

COMMON: dict[str, Any] = {
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "transformers_version": "4.52.0",
    "use_cache": True,
}
SMOLLM2 = COMMON | {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "is_llama_config": True,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "pad_token_id": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_interleaved": False,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
    "vocab_size": 49152,
}
LLAMA2 = COMMON | {
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "vocab_size": 32000,
}
LLAMA32 = SMOLLM2 | {
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "vocab_size": 128256,
}
MISTRAL = COMMON | {
    "architectures": ["MistralForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}
QWEN25 = COMMON | {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
QWEN3 = COMMON | {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "model_type": "qwen3",
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
"""As Qwen's model cards say to switch it on."""
GEMMA270M = COMMON | {
    "_sliding_window_pattern": 6,
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 640,
    "intermediate_size": 2048,
    "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 3,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 18,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": 512,
    "use_bidirectional_attention": False,
    "vocab_size": 262144,
}
# leaves out whatever equals the defaults of transformers
GEMMA4B = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": 255999,
    "eos_token_id": [1, 106],
    "image_token_index": 262144,
    "mm_tokens_per_image": 256,
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "torch_dtype": "bfloat16",
    "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
}


def spec(config: dict[str, Any]) -> ModelSpec:
    return read_spec(ModelConfig(Path("config.json"), config))


@pytest.mark.parametrize(
    ("config", "layers", "heads", "head_dim", "max_positions", "tied"),
    [
        (SMOLLM2, 30, (9, 3), 64, 8192, True),
        (LLAMA2, 32, (32, 32), 128, 4096, False),
        (LLAMA32, 16, (32, 8), 64, 131072, True),
        (MISTRAL, 32, (32, 8), 128, 32768, False),
        (QWEN25, 24, (14, 2), 64, 32768, True),
        (QWEN3, 28, (16, 8), 128, 40960, True),
        (GEMMA270M, 18, (4, 1), 256, 32768, True),
        (GEMMA4B, 34, (8, 4), 256, 131072, True),
    ],
)
def test_sizes(
    config: dict[str, Any],
    layers: int,
    heads: tuple[int, int],
    head_dim: int,
    max_positions: int,
    tied: bool,
) -> None:
    read = spec(config)
    assert len(read.residuals) == 2 * layers
    first = read.attentions[0]
    assert ((first.heads, first.kv_heads), first.head_dim) == (heads, head_dim)
    assert read.max_positions == max_positions
    assert (read.head.weight == read.embed.weight) == tied


@pytest.mark.parametrize(
    ("config", "scaling", "max_positions"),
    [
        (QWEN3, YARN, 131072),
        (QWEN25, {"type": "yarn"} | YARN, 131072),
        (QWEN3, YARN | {"factor": 1.1}, 40960),  # less than it has without
        (QWEN3 | {"max_position_embeddings": 262144}, YARN, 262144),
        (QWEN25, YARN | {"original_max_position_embeddings": None}, 131072),
        (LLAMA2, {"type": "linear", "factor": 4.0}, 16384),  # Vicuna 16k
        (LLAMA2, {"type": "linear", "factor": 0.5}, 4096),
        (LLAMA2, {"type": "linear", "factor": 1e300}, 2**31 - 1),
        (GEMMA270M, {"rope_type": "linear", "factor": 8.0}, 32768),
    ],
)
def test_a_scaling_makes_the_context_longer(
    config: dict[str, Any], scaling: dict[str, Any], max_positions: int
) -> None:
    assert spec(config | {"rope_scaling": scaling}).max_positions == max_positions


def test_windows() -> None:
    assert {step.window for step in spec(MISTRAL).attentions} == {4096}
    assert {step.window for step in spec(QWEN25).attentions} == {0}
    assert [step.window for step in spec(GEMMA270M).attentions] == ([512] * 5 + [0]) * 3
    assert [step.window for step in spec(GEMMA4B).attentions] == ([1024] * 5 + [0]) * 5 + [1024] * 4


def test_rotations() -> None:
    assert spec(SMOLLM2).attentions[0].rope.base == 100000
    assert spec(LLAMA2).attentions[0].rope.base == 10000
    assert spec(LLAMA32).attentions[0].rope.scaling == Llama3Scaling(32.0, 1.0, 4.0, 8192)
    local, world = (spec(GEMMA4B).attentions[layer].rope for layer in (0, 5))
    assert (local.base, local.scaling) == (10000, None)
    assert (world.base, world.scaling) == (1000000, LinearScaling(8.0))


def test_biases_and_norms_of_heads() -> None:
    assert spec(QWEN25).attentions[0].q.bias == "layers.0.self_attn.q_proj.bias"
    assert spec(QWEN25).attentions[0].o.bias is None
    assert spec(QWEN25).attentions[0].q_norm is None
    assert spec(QWEN3).attentions[0].q.bias is None
    assert spec(QWEN3).attentions[0].q_norm is not None


def test_gemma_scales() -> None:
    read = spec(GEMMA4B)
    assert read.embed.scale == pytest.approx(2560**0.5)
    assert read.attentions[0].scale == 256**-0.5
