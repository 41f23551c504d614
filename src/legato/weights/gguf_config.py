"""GGUF metadata -> the keys of a Hugging Face ``config.json``.

The metadata of an architecture (``llama.*``) is small and every key of it can change the numbers, so a
key that is not translated here is refused, not ignored.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from legato.errors import UnsupportedModelError
from legato.gguf_file import Strings
from legato.weights.model_config import ModelConfig

ACTIVATIONS: Final = {
    "llama": "silu",
    "qwen2": "silu",
    "qwen3": "silu",
    "gemma3": "gelu_pytorch_tanh",
}
"""The architectures that are translated, and what their files do not say: the activation."""

# GGUF key without the architecture -> key of config.json
_RENAMED: Final = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "context_length": "max_position_embeddings",
    "vocab_size": "vocab_size",
    "rope.freq_base": "rope_theta",
    "attention.sliding_window": "sliding_window",
    "attention.sliding_window_pattern": "sliding_window_pattern",
    "rope.freq_base_swa": "rope_local_base_freq",
    "final_logit_softcapping": "final_logit_softcapping",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "attention.scale": "attention_scale",
    "expert_count": "num_local_experts",
}
_SCALING: Final = {
    "rope.scaling.type": "rope_type",
    "rope.scaling.factor": "factor",
    "rope.scaling.original_context_length": "original_max_position_embeddings",
    "rope.scaling.attn_factor": "attention_factor",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
}
_CHECKED: Final = ("attention.value_length", "rope.dimension_count", "rope.scale_linear")
# Says how the model was trained or stored; no number depends on it.
_HARMLESS: Final = ("rope.scaling.finetuned", "expert_used_count", "tensor_data_layout")
_IMAGES: Final = ("vision.", "mm.")  # describes the image half of a multimodal file
GEMMA_27B_LAYERS: Final = 62


def translate(
    path: Path, architecture: str, metadata: dict[str, Any], tensor_names: Collection[str]
) -> ModelConfig:
    """``tensor_names``: the spec's names of the tensors in the file, which say what is tied or biased."""
    if architecture not in ACTIVATIONS:
        raise UnsupportedModelError(
            f"{path}: general.architecture: {architecture!r} is not supported "
            f"(supported: {', '.join(ACTIVATIONS)})"
        )
    own = {
        key.removeprefix(architecture + "."): value
        for key, value in metadata.items()
        if key.startswith(architecture + ".")
    }
    _refuse_unknown(path, architecture, own)
    config = _renamed(path, architecture, own)
    _check_head_width(config, architecture, own)
    config.values.update(_facts(architecture, tensor_names))
    if isinstance(tokens := metadata.get("tokenizer.ggml.tokens"), (list, Strings)):
        config.values["vocab_size"] = len(tokens)
    _rope_scaling(config, own)
    if architecture == "llama" and config.has("sliding_window"):
        config.values["model_type"] = "mistral"  # whose files call themselves llama
    if architecture == "gemma3":
        _gemma(config)
    return config


def _renamed(path: Path, architecture: str, own: dict[str, Any]) -> ModelConfig:
    """The keys that only have another name."""
    labels = {ours: f"{architecture}.{theirs}" for theirs, ours in _RENAMED.items()}
    for theirs, ours in _SCALING.items():
        labels[f"rope_scaling.{ours}"] = f"{architecture}.{theirs}"
    values = {ours: own[theirs] for theirs, ours in _RENAMED.items() if theirs in own}
    return ModelConfig(path, values, labels)


def _facts(architecture: str, tensor_names: Collection[str]) -> dict[str, Any]:
    """What the metadata does not say: it follows from the architecture and from which tensors exist."""
    return {
        "model_type": architecture,
        "hidden_act": ACTIVATIONS[architecture],
        "rope_pairs_interleaved": architecture == "llama",  # its q and k are permuted
        "rope_frequency_factors": "rope_freqs.weight" in tensor_names,
        "tie_word_embeddings": "lm_head.weight" not in tensor_names,
        "attention_bias": "layers.0.self_attn.q_proj.bias" in tensor_names,
        "attention_out_bias": "layers.0.self_attn.o_proj.bias" in tensor_names,
        "mlp_bias": "layers.0.mlp.gate_proj.bias" in tensor_names,
    }


def _refuse_unknown(path: Path, architecture: str, own: dict[str, Any]) -> None:
    known = {*_RENAMED, *_SCALING, *_CHECKED, *_HARMLESS}
    for key in own:
        if key not in known and not key.startswith(_IMAGES):
            raise UnsupportedModelError(f"{path}: {architecture}.{key}: this key is not supported")


def _check_head_width(config: ModelConfig, architecture: str, own: dict[str, Any]) -> None:
    """One width for keys, values and rotation is what the attention operator knows."""
    width = config.integer("hidden_size") // config.integer("num_attention_heads")
    width = config.integer("head_dim", width)
    for key in ("attention.value_length", "rope.dimension_count"):
        raw = ModelConfig(config.source, own, {key: f"{architecture}.{key}"})
        if raw.integer(key, width) != width:
            raw.refuse(key, f"{own[key]} differs from the head's width {width}")


def _rope_scaling(config: ModelConfig, own: dict[str, Any]) -> None:
    """Sets ``rope_scaling``. Without a type a factor means linear, as in llama.cpp."""
    values = {ours: own[theirs] for theirs, ours in _SCALING.items() if theirs in own}
    if "rope.scale_linear" in own:
        values.setdefault("factor", own["rope.scale_linear"])
    values.setdefault("rope_type", "linear" if "factor" in values else "none")
    config.values["rope_scaling"] = values
    scaling = config.section("rope_scaling")
    kind = scaling.text("rope_type")
    if kind == "none" or (kind == "linear" and values.get("factor", 1) in (0, 1)):
        del config.values["rope_scaling"]
        return
    # a converter writes the length after scaling, unless it says what it was before
    given = kind == "yarn" and scaling.has("original_max_position_embeddings")
    config.values["context_is_stretched"] = not given
    # llama.cpp multiplies yarn's own factor by this one; transformers replaces it
    by = scaling.number("attention_factor", 1.0)
    values.pop("attention_factor", None)
    if kind == "yarn":
        values["attention_factor"] = by * (
            1.0 + 0.1 * math.log(scaling.number("factor", above=1.0))
        )
    elif by != 1.0:
        scaling.refuse("attention_factor", f"{by:g} is not supported with type {kind!r}")


def _gemma(config: ModelConfig) -> None:
    """What every Gemma 3 has and its GGUF files do not say; what they do say has no defaults."""
    for key in ("num_key_value_heads", "max_position_embeddings", "vocab_size", "sliding_window"):
        config.integer(key)
    for key in ("rms_norm_eps", "rope_theta"):
        config.number(key)
    config.values["hidden_activation"] = config.values.pop("hidden_act")
    config.values.setdefault("rope_local_base_freq", 10000.0)
    config.values["norms_hold_one"] = True  # 1 + weight, where transformers stores the weight
    scalar = config.integer("head_dim")
    if config.integer("num_hidden_layers") == GEMMA_27B_LAYERS:
        scalar = config.integer("hidden_size") // config.integer("num_attention_heads")
    config.values["query_pre_attn_scalar"] = scalar
