"""Tiny models on disk, written with the formats' own packages, and a program that only takes notes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file

HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, VOCAB = 64, 96, 2, 4, 2, 40

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "vocab_size": VOCAB,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 256,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "eos_token_id": 2,
}


def llama_tensors(seed: int = 0, layers: int = LAYERS) -> dict[str, np.ndarray]:
    """Under the names of GGUF."""
    random = np.random.default_rng(seed)

    def matrix(*shape: int) -> np.ndarray:
        return (random.normal(size=shape) * 0.1).astype(np.float32)

    kv = HIDDEN // HEADS * KV_HEADS
    tensors = {"token_embd.weight": matrix(VOCAB, HIDDEN), "output.weight": matrix(VOCAB, HIDDEN)}
    tensors["output_norm.weight"] = np.ones(HIDDEN, np.float32)
    for n in range(layers):
        tensors |= {
            f"blk.{n}.attn_norm.weight": np.ones(HIDDEN, np.float32),
            f"blk.{n}.attn_q.weight": matrix(HIDDEN, HIDDEN),
            f"blk.{n}.attn_k.weight": matrix(kv, HIDDEN),
            f"blk.{n}.attn_v.weight": matrix(kv, HIDDEN),
            f"blk.{n}.attn_output.weight": matrix(HIDDEN, HIDDEN),
            f"blk.{n}.ffn_norm.weight": np.ones(HIDDEN, np.float32),
            f"blk.{n}.ffn_gate.weight": matrix(INNER, HIDDEN),
            f"blk.{n}.ffn_up.weight": matrix(INNER, HIDDEN),
            f"blk.{n}.ffn_down.weight": matrix(HIDDEN, INNER),
        }
    return tensors


HF_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def hf_name(name: str) -> str:
    if not name.startswith("blk."):
        outer = {
            "token_embd": "model.embed_tokens",
            "output": "lm_head",
            "output_norm": "model.norm",
        }
        return outer[name.removesuffix(".weight")] + ".weight"
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{HF_NAMES[part]}.weight"


def write_folder(
    folder: Path, config: dict[str, Any] = LLAMA, tensors: dict[str, np.ndarray] | None = None
) -> Path:
    """A Hugging Face folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if tensors is None:
        tensors = {hf_name(name): value for name, value in llama_tensors().items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


def write_gguf(
    path: Path,
    extra: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    architecture: str = "llama",
) -> Path:
    """``extra``: more or other keys of the architecture; None leaves one out."""
    writer = gguf.GGUFWriter(path, architecture)
    values: dict[str, Any] = {
        "block_count": LAYERS,
        "context_length": 256,
        "embedding_length": HIDDEN,
        "feed_forward_length": INNER,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10000.0,
        "vocab_size": VOCAB,
    } | (extra or {})
    for key, value in values.items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        if value is not None:
            add[type(value)](f"{architecture}.{key}", value)
    writer.add_eos_token_id(2)
    for name, value in (tensors or llama_tensors()).items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class Notes:
    """Takes every call of a native program and writes it down; returns handles that count up."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> int:
            self.calls.append((name, arguments, options))
            return len(self.calls)

        return call

    def named(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(arguments, options) for called, arguments, options in self.calls if called == name]
