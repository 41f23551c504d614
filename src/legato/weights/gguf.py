"""GGUF files as checkpoints: tensors under the names of Hugging Face, still in the file's formats."""

from __future__ import annotations

import mmap
import re
from pathlib import Path
from typing import Any, Final

import numpy as np

from legato.errors import ModelError, UnsupportedModelError
from legato.gguf_file import GGUFFile, read_gguf
from legato.weights.gguf_config import translate
from legato.weights.tensor import BLOCK_FORMATS, Checkpoint, Tensor

_OUTER: Final = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "output": "lm_head",
    "rope_freqs": "rope_freqs",
}
_IN_LAYER: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}
# Gemma has a norm after the attention too, so that its feed-forward norm has a name of its own.
_IN_GEMMA_LAYER: Final = {**_IN_LAYER, "ffn_norm": "pre_feedforward_layernorm"}
_LAYER_NAME: Final = re.compile(r"blk\.(\d{1,5})\.(\w+)\.(weight|bias)")
_OUTER_NAME: Final = re.compile(r"(\w+)\.(weight|bias)")
_SAMPLING: Final = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}


def open_gguf(path: Path) -> Checkpoint:
    """Raises ``ModelError`` naming the file and the key or tensor."""
    file = read_gguf(path)
    if "split.count" in file.metadata and file.metadata["split.count"] != 1:
        raise UnsupportedModelError(
            f"{path}: split.count: a GGUF split over files is not supported"
        )
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise ModelError(f"{path}: general.architecture: the key is missing or not a string")
    names = _IN_GEMMA_LAYER if architecture.startswith("gemma") else _IN_LAYER
    tensors: dict[str, Tensor] = {}
    for stored in file.tensors:
        tensor = _tensor(file, stored, spec_name(stored, names))
        if tensor.name in tensors:
            raise ModelError(f"{path}: tensors {stored!r} and {tensors[tensor.name].stored_name!r}"
                             " are the same part of the model")  # fmt: skip
        tensors[tensor.name] = tensor
    config = translate(path, architecture, file.metadata, tensors.keys())
    return Checkpoint(path, config, tensors, _eos(path, file.metadata), _sampling(file.metadata))


def spec_name(stored: str, in_layer: dict[str, str]) -> str:
    """``blk.3.ffn_up.weight`` -> ``layers.3.mlp.up_proj.weight``; unknown names stay as they are."""
    if match := _LAYER_NAME.fullmatch(stored):
        part = in_layer.get(match[2])
        return f"layers.{int(match[1])}.{part}.{match[3]}" if part else stored
    if match := _OUTER_NAME.fullmatch(stored):
        part = _OUTER.get(match[1])
        return f"{part}.{match[2]}" if part else stored
    return stored


def _tensor(file: GGUFFile, stored: str, name: str) -> Tensor:
    info = file.tensors[stored]
    if info.format not in BLOCK_FORMATS:
        raise UnsupportedModelError(
            f"{file.path}: tensor {stored!r}: format {info.format} is not supported "
            f"(supported: {', '.join(BLOCK_FORMATS)})"
        )
    pages = file.data.obj
    return Tensor(
        name=name,
        stored_name=stored,
        source=file.path,
        format=info.format,
        shape=info.shape,
        data=np.frombuffer(file.data, np.uint8, info.nbytes, info.offset),
        pages=pages if isinstance(pages, mmap.mmap) else None,
        offset=info.offset,
        stored_bytes=info.nbytes,
    )


def _eos(path: Path, metadata: dict[str, Any]) -> list[int]:
    """End of text, of a turn and of a message: each ends an answer."""
    found: list[int] = []
    for key in ("eos_token_id", "eot_token_id", "eom_token_id"):
        value = metadata.get(f"tokenizer.ggml.{key}")
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise ModelError(
                f"{path}: tokenizer.ggml.{key}: expected an integer, got {value!r:.80}"
            )
        if value not in found:
            found.append(value)
    return found


def _sampling(metadata: dict[str, Any]) -> dict[str, Any]:
    return {name: metadata[key] for key, name in _SAMPLING.items() if key in metadata}
