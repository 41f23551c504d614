"""transformers model -> GGUF file, through the gguf package and its own table of tensor names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

Kind = gguf.GGMLQuantizationType
FLOATS = {"F32": np.float32, "F16": np.float16}
RANDOM_BLOCKS = ("Q4_K", "Q5_K", "Q6_K")  # gguf can read, but not write them


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama's q and k in GGUF: the halves of a head become pairs of neighbours."""
    shape = weight.shape
    return weight.reshape(heads, 2, shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(shape)


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    shape = weight.shape
    return weight.reshape(heads, shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(shape)


def encode(values: np.ndarray, format_name: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(what goes into the file, the float32 values that it stands for).

    K formats get random blocks instead of ``values``, of about the same spread.
    """
    kind = Kind[format_name]
    if format_name in FLOATS:
        stored = values.astype(FLOATS[format_name])
        return stored, stored.astype(np.float32)
    if format_name in RANDOM_BLOCKS:
        stored = random_blocks(format_name, values.shape, float(values.std()), seed)
    else:
        stored = gguf.quants.quantize(values, kind)
    return stored, gguf.quants.dequantize(stored, kind).reshape(values.shape)


def random_blocks(format_name: str, shape: tuple[int, ...], spread: float, seed: int) -> np.ndarray:
    """[rows, bytes] of valid blocks: random codes and scales, f16 factors that give ``spread``."""
    random = np.random.default_rng(seed)
    block, nbytes = gguf.GGML_QUANT_SIZES[Kind[format_name]]
    blocks = random.integers(0, 256, (shape[0] * shape[1] // block, nbytes), np.uint8)
    steps = random.uniform(0.7, 1.3, len(blocks)) * spread
    if format_name == "Q6_K":
        set_f16(blocks, 208, steps / (74 * 18))  # * scale (int8) * (code - 32)
    else:
        # value = d * scale * code - dmin * minimum, so equal scales and minima centre it
        levels = 16 if format_name == "Q4_K" else 32
        blocks[:, 8:12] = blocks[:, 4:8]
        blocks[:, 12:16] = (blocks[:, 12:16] & 15) * 17
        step = steps / (36 * levels * 0.29)
        set_f16(blocks, 0, step)
        set_f16(blocks, 2, step * (levels - 1) / 2)
    return blocks.reshape(shape[0], -1)


def set_f16(blocks: np.ndarray, position: int, values: np.ndarray) -> None:
    blocks[:, position : position + 2] = values.astype(np.float16).reshape(-1, 1).view(np.uint8)


def export(
    model: torch.nn.Module,
    architecture: str,
    path: Path,
    *,
    choose: Callable[[str], str] = lambda name: "F32",
    extra: dict[str, Any] | None = None,
    extra_tensors: dict[str, np.ndarray] | None = None,
) -> None:
    """Writes ``path`` and puts the values that the file stands for into ``model``.

    ``choose``: the format of each matrix, by its name in the file.
    """
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    metadata(writer, config, extra or {})
    kind = {v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    state = model.state_dict()
    for number, (name, parameter) in enumerate(state.items()):
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored is not None, name
        values = parameter.numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        turned = heads.get(name.split(".")[-2]) if architecture == "llama" else None
        if turned:
            values = permute(values, turned)
        if architecture == "gemma3" and "norm" in name:
            values = values + 1
        format_name = choose(stored) if values.ndim == 2 else "F32"
        data, meant = encode(values, format_name, seed=number)
        raw = None if format_name in FLOATS else Kind[format_name]
        writer.add_tensor(stored, np.ascontiguousarray(data), raw_dtype=raw)
        if values.ndim == 2:
            state[name].copy_(torch.from_numpy(unpermute(meant, turned) if turned else meant))
    for name, values in (extra_tensors or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def metadata(writer: gguf.GGUFWriter, config: Any, extra: dict[str, Any]) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    for key, value in extra.items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add[type(value)](f"{writer.arch}.{key}", value)
