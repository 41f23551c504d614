"""Hugging Face folders: ``config.json`` and safetensors, memory-mapped, sharded or not.

The format (an 8-byte length, a JSON header, raw data) is read here, because every offset has to be
checked against the file before it is used, and the tensors must stay views on the map.
"""

from __future__ import annotations

import json
import mmap
import re
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np

from legato.errors import ModelError, UnsupportedModelError
from legato.weights.model_config import ModelConfig, read_json
from legato.weights.tensor import BLOCK_FORMATS, Checkpoint, Tensor

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
MAX_HEADER_BYTES: Final = 100 * 1024 * 1024
# A language model may sit inside a multimodal one.
_WRAPPERS: Final = re.compile(r"^(model\.language_model\.|language_model\.model\.|model\.)")
_SAMPLING: Final = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def open_folder(path: Path) -> Checkpoint:
    """Raises ``ModelError`` naming the file and the key or tensor."""
    config = ModelConfig(path / "config.json", read_json(path / "config.json"))
    tensors: dict[str, Tensor] = {}
    for shard, expected in _shards(path).items():
        found = read_safetensors(shard)
        for stored in expected - found.keys():
            raise ModelError(f"{shard}: the tensor {stored!r} is missing ({INDEX} says it is here)")
        for stored, tensor in found.items():
            if tensor.name in tensors:
                raise ModelError(f"{shard}: the tensor {stored!r} is in more than one place")
            tensors[tensor.name] = tensor
    generation = _generation_config(path)
    eos = _eos(generation) or _eos(config) or _eos_of_section(config)
    return Checkpoint(path, config, tensors, eos, _sampling(generation))


def spec_name(stored: str) -> str:
    """``model.layers.0.mlp.up_proj.weight`` -> ``layers.0.mlp.up_proj.weight``."""
    if stored.startswith("language_model.lm_head."):
        return stored.removeprefix("language_model.")
    return _WRAPPERS.sub("", stored)


def _shards(path: Path) -> dict[Path, set[str]]:
    """The files with weights, and the names that the index promises in each."""
    if not (path / INDEX).exists():
        if not (path / SINGLE).exists():
            raise ModelError(f"{path}: there is neither {SINGLE} nor {INDEX}")
        return {path / SINGLE: set()}
    weight_map = ModelConfig(path / INDEX, read_json(path / INDEX)).get("weight_map", (dict,), None)
    if not weight_map:
        raise ModelError(f"{path / INDEX}: weight_map: the key is missing or empty")
    shards: dict[Path, set[str]] = {}
    for stored, name in weight_map.items():
        # a name with a folder in it could point anywhere on the disk
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelError(f"{path / INDEX}: weight_map: {stored}: {name!r} is not a file name")
        shards.setdefault(path / name, set()).add(stored)
    return shards


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file under the names it uses."""
    try:
        with open(path, "rb") as file:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: the file is empty
        raise ModelError(f"{path}: cannot be read as safetensors: {error}") from error
    header, start = _header(path, pages)
    header.pop("__metadata__", None)
    tensors = {name: _tensor(path, pages, start, name, entry) for name, entry in header.items()}
    _check_layout(path, tensors, start, len(pages))
    return tensors


def _header(path: Path, pages: mmap.mmap) -> tuple[dict[str, Any], int]:
    """Returns the JSON object and where the data begins."""
    length = int.from_bytes(pages[:8], "little")
    if len(pages) < 8 or length > min(len(pages) - 8, MAX_HEADER_BYTES):
        raise ModelError(f"{path}: header: truncated or corrupt: it claims {length} bytes")
    try:
        header = json.loads(pages[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: header: not JSON: {error}") from error
    if not isinstance(header, dict):
        raise ModelError(f"{path}: header: expected a JSON object")
    return header, 8 + length


def _tensor(path: Path, pages: mmap.mmap, start: int, stored: str, entry: Any) -> Tensor:
    label = f"{path}: tensor {stored!r}"
    try:
        format_name, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise ModelError(f"{label}: its header entry is malformed: {entry!r:.80}") from error
    if not isinstance(shape, list) or not all(_is_count(n) for n in [*shape, begin, end]):
        raise ModelError(f"{label}: shape and data_offsets must hold integers, got {entry!r:.120}")
    if format_name not in ("F32", "F16", "BF16"):
        raise UnsupportedModelError(
            f"{label}: dtype {format_name!r:.40} is not supported (supported: F32, F16, BF16)"
        )
    if end - begin != prod(shape) * BLOCK_FORMATS[format_name][1]:
        raise ModelError(f"{label}: shape {shape} does not fit data_offsets {[begin, end]}")
    if start + end > len(pages):
        raise ModelError(f"{label}: truncated or corrupt: the file ends before its data")
    data = np.frombuffer(pages, np.uint8, end - begin, start + begin)
    return Tensor(
        name=spec_name(stored),
        stored_name=stored,
        source=path,
        format=format_name,
        shape=tuple(shape),
        data=data,
        pages=pages,
        offset=start + begin,
        stored_bytes=end - begin,
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48


def _check_layout(path: Path, tensors: dict[str, Tensor], start: int, size: int) -> None:
    """The format allows neither overlaps nor holes, so both are signs of corruption."""
    position = start
    for tensor in sorted(tensors.values(), key=lambda t: (t.offset, t.stored_bytes)):
        if tensor.offset != position:
            raise ModelError(
                f"{path}: tensor {tensor.stored_name!r}: data_offsets overlap or leave a hole"
            )
        position += tensor.stored_bytes
    if position != size:
        raise ModelError(f"{path}: the header describes {position} bytes, the file has {size}")


def _generation_config(path: Path) -> ModelConfig:
    file = path / "generation_config.json"
    return ModelConfig(file, read_json(file) if file.exists() else {})


def _eos(config: ModelConfig) -> list[int]:
    """``eos_token_id``: one, several or none."""
    value = config.get("eos_token_id", (int, list), [])
    values = value if isinstance(value, list) else [value]
    if not all(_is_count(token) for token in values):
        config.fail("eos_token_id", f"expected token ids, got {value!r:.80}")
    return list(dict.fromkeys(values))


def _eos_of_section(config: ModelConfig) -> list[int]:
    return _eos(config.section("text_config")) if config.has("text_config") else []


def _sampling(generation: ModelConfig) -> dict[str, Any]:
    return {
        key: generation.number(key, above=-1.0)
        if key != "top_k"
        else generation.integer(key, minimum=-1)
        for key in _SAMPLING
        if generation.has(key)
    }
