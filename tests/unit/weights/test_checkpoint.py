"""What is read out of a model's files besides the weights themselves."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from legato.errors import ModelError
from legato.weights.gguf import open_gguf
from legato.weights.safetensors import open_folder, read_safetensors, spec_name
from legato.weights.tensor import Tensor


def folder(path: Path, config: dict[str, Any], generation: dict[str, Any] | None = None) -> Path:
    (path / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps(generation))
    save_file({"a": np.zeros(2, np.float32)}, path / "model.safetensors")
    return path


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({"eos_token_id": 2}, None, [2]),
        ({"eos_token_id": [5, 7, 5]}, None, [5, 7]),
        ({"eos_token_id": 2}, {"eos_token_id": [2, 9]}, [2, 9]),
        ({"eos_token_id": 2}, {"eos_token_id": None}, [2]),
        ({"text_config": {"eos_token_id": 1}}, None, [1]),
        ({}, None, []),
    ],
)
def test_end_tokens(tmp_path: Path, config: Any, generation: Any, expected: list[int]) -> None:
    assert open_folder(folder(tmp_path, config, generation)).eos_token_ids == expected


@pytest.mark.parametrize("value", ["2", [None], [True], -1, 1.5, {"a": 1}])
def test_odd_end_tokens_are_named(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ModelError, match=r"config\.json: eos_token_id: "):
        open_folder(folder(tmp_path, {"eos_token_id": value}))


def test_default_sampling(tmp_path: Path) -> None:
    generation = {
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "max_length": 20,
        "do_sample": True,
    }
    opened = open_folder(folder(tmp_path, {}, generation))
    assert opened.default_sampling == {"temperature": 0.6, "top_k": 20, "top_p": 0.95}
    with pytest.raises(ModelError, match=r"generation_config\.json: top_k: expected int"):
        open_folder(folder(tmp_path, {}, {"top_k": "many"}))


def test_values_of_float_formats(tmp_path: Path) -> None:
    exact = np.array([[1.5, -2.0, 0.0], [3.0, 1e-2, -7.0]], np.float32)
    bfloat16 = (exact.view(np.uint32) >> 16).astype(np.uint16)
    for stored, name, tolerance in (
        (exact, "F32", 0.0),
        (exact.astype(np.float16), "F16", 1e-3),
        (bfloat16, "BF16", 1e-2),
    ):
        tensor = Tensor("a", "a", tmp_path, name, (2, 3), stored.reshape(-1).view(np.uint8))
        np.testing.assert_allclose(tensor.values(), exact, rtol=tolerance)
        np.testing.assert_array_equal(tensor.row_range(1, 2).values(), tensor.values()[1:])


def resident(pages: mmap.mmap) -> int:
    """Bytes of this mapping that are in memory, as the kernel counts them."""
    address = np.frombuffer(pages, np.uint8).ctypes.data
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.startswith(f"{address:x}-"):
            return next(int(rest.split()[1]) * 1024 for rest in lines if rest.startswith("Rss:"))
    raise AssertionError("not mapped")


def test_released_pages_leave_memory(tmp_path: Path) -> None:
    values = np.arange(2**20, dtype=np.float32)
    save_file({"a": values, "b": values}, tmp_path / "model.safetensors")
    tensors = read_safetensors(tmp_path / "model.safetensors")
    for tensor in tensors.values():
        assert tensor.data.sum() > 0
    pages = tensors["a"].pages
    assert pages is not None
    assert resident(pages) > 7e6
    tensors["a"].release()
    assert 3e6 < resident(pages) < 5e6
    tensors["b"].release()
    assert resident(pages) < 1e5
    np.testing.assert_array_equal(tensors["a"].values(), values)  # still readable


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        ("model.layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj.weight"),
        ("model.language_model.norm.weight", "norm.weight"),
        ("language_model.model.norm.weight", "norm.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("lm_head.weight", "lm_head.weight"),
        ("model.vision_tower.a", "vision_tower.a"),
    ],
)
def test_names(stored: str, name: str) -> None:
    assert spec_name(stored) == name


@pytest.mark.parametrize(
    "spans",
    [
        {"a": [0, 8], "b": [4, 12]},  # 4 bytes of a, and the last 4 of the file are nobody's
        {"a": [0, 8], "b": [0, 8]},
        {"a": [4, 12], "b": [8, 16]},
        {"a": [0, 8], "b": [12, 20]},
    ],
)
def test_tensors_that_overlap_or_leave_a_hole_are_told(
    tmp_path: Path, spans: dict[str, list[int]]
) -> None:
    """Also where the sizes add up to that of the file."""
    entries = {name: {"dtype": "F32", "shape": [2], "data_offsets": s} for name, s in spans.items()}
    header = json.dumps(entries).encode()
    path = tmp_path / "model.safetensors"
    rest = bytes(max(16, *(end for _, end in spans.values())))
    path.write_bytes(len(header).to_bytes(8, "little") + header + rest)
    with pytest.raises(ModelError, match=r"tensor '[ab]': data_offsets overlap or leave a hole"):
        read_safetensors(path)


def write_gguf(path: Path, tensors: tuple[str, ...] = (), **values: int) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    for key in ("embedding_length", "attention.head_count"):
        writer.add_uint32(f"llama.{key}", 4)
    writer.add_eos_token_id(2)
    writer.add_eot_token_id(32)
    writer.add_float32("general.sampling.temp", 0.5)
    for key, value in values.items():
        writer.add_uint16(key.replace("_", "."), value)
    for name in ("output_norm.weight", *tensors):
        writer.add_tensor(name, np.ones(4, np.float32))
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        write()
    return path


@pytest.mark.parametrize(
    ("tensors", "values", "message"),
    [
        (("norm.weight",), {}, "'norm.weight' and 'output_norm.weight' are the same part"),
        ((), {"split_count": 2}, r"split\.count: a GGUF split over files"),
    ],
)
def test_gguf_files_that_are_not_one_model(
    tmp_path: Path, tensors: tuple[str, ...], values: dict[str, int], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        open_gguf(write_gguf(tmp_path / "a.gguf", tensors, **values))
    open_gguf(write_gguf(tmp_path / "whole.gguf", split_count=1))


def test_gguf_end_tokens_and_sampling(tmp_path: Path) -> None:
    opened = open_gguf(write_gguf(tmp_path / "a.gguf"))
    assert opened.eos_token_ids == [2, 32]
    assert opened.default_sampling == {"temperature": 0.5}
    assert opened.tensor("norm.weight").stored_name == "output_norm.weight"


def test_what_a_start_does_not_import() -> None:
    """A server that finds its model on disk pays for neither the hub's client nor torch."""
    code = (
        "import sys; from legato.weights import hub; from legato import models; "
        "import legato.models.loading; "
        "print([m for m in ('huggingface_hub', 'torch', 'rich', 'gguf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
