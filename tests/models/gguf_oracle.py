"""A GGUF file as a float32 transformers model: read by the gguf package, dequantised, nothing of legato."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import gguf
import numpy as np
import torch
import transformers
from gguf_export import unpermute
from transformers.initialization import no_init_weights

FAMILIES = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma3": "Gemma3Text"}


def oracle(path: Path) -> torch.nn.Module:
    """Plain files: no scaling of the rotation, Gemma's pattern of five sliding layers to one."""
    # np.memmap is a slow subclass: the reader slices it a million times for a large vocabulary
    with mock.patch("numpy.memmap", lambda file, mode: np.fromfile(file, np.uint8)):
        reader = gguf.GGUFReader(path)
    architecture = field(reader, "general.architecture")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    config = read_config(reader, architecture, tied="output.weight" not in tensors)
    family = FAMILIES[architecture].removesuffix("Text")
    with no_init_weights():
        model = getattr(transformers, f"{family}ForCausalLM")(config).float()
    model.tie_weights()
    names = gguf.get_tensor_name_map(
        {v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[architecture], config.num_hidden_layers
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            tensor = tensors[names.get_name(name, try_suffixes=(".weight", ".bias"))]
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            if architecture == "llama" and "q_proj" in name:
                values = unpermute(values, config.num_attention_heads)
            if architecture == "llama" and "k_proj" in name:
                values = unpermute(values, config.num_key_value_heads)
            if architecture == "gemma3" and "norm" in name:
                values = values - 1
            parameter.copy_(torch.from_numpy(values.copy()).reshape(parameter.shape))
    return model.eval()


def field(reader: gguf.GGUFReader, key: str, default: Any = None) -> Any:
    found = reader.get_field(key)
    return default if found is None else found.contents()


def read_config(reader: gguf.GGUFReader, architecture: str, *, tied: bool) -> Any:
    def get(key: str, default: Any = None) -> Any:
        return field(reader, f"{architecture}.{key}", default)

    heads, hidden = get("attention.head_count"), get("embedding_length")
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": get("rope.freq_base")}
    options: dict[str, Any] = {}
    if architecture == "gemma3":
        local = {"rope_type": "default", "rope_theta": 10000.0}
        rope = {"full_attention": rope, "sliding_attention": local}
        options["sliding_window"] = get("attention.sliding_window")
        options["query_pre_attn_scalar"] = get("attention.key_length")
    return getattr(transformers, f"{FAMILIES[architecture]}Config")(
        vocab_size=len(reader.fields["tokenizer.ggml.tokens"].data),
        hidden_size=hidden,
        intermediate_size=get("feed_forward_length"),
        num_hidden_layers=get("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=get("attention.head_count_kv"),
        head_dim=get("attention.key_length", hidden // heads),
        max_position_embeddings=get("context_length"),
        rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
        tie_word_embeddings=tied,
        rope_parameters=rope,
        **options,
    )
