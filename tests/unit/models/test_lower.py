"""What the native program is told, with a program that only takes notes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_corrupt_files import load
from tiny_files import (
    HIDDEN,
    INNER,
    LAYERS,
    LLAMA,
    VOCAB,
    Notes,
    hf_name,
    llama_tensors,
    write_folder,
    write_gguf,
)

from legato.errors import ModelError, UnsupportedModelError
from legato.models.lower import lower
from legato.models.registry import read_spec
from legato.weights import checkpoint
from legato.weights.files import local_files


def tensors(**changes: np.ndarray | None) -> dict[str, np.ndarray]:
    """A llama's under Hugging Face's names. A change is named with __ for dots; None removes."""
    found = {hf_name(name): value for name, value in llama_tensors().items()}
    for name, value in changes.items():
        found.pop(name.replace("__", "."), None)
        if value is not None:
            found[name.replace("__", ".")] = value
    return found


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def test_operators_in_order(tmp_path: Path) -> None:
    notes = load(write_folder(tmp_path / "tiny"))
    operators = [name for name, _, _ in notes.calls]
    data = ("buffer", "vector", "matrix", "matrix_concat", "rope_table")
    layer = ["rms_norm", "linear", "rope", "kv_write", "attention", "linear"]
    layer += ["rms_norm", "linear", "gated", "linear"]
    last = [*layer[:4], "gather", *layer[4:]]  # from there on only rows that somebody reads
    found = [name for name in operators if name not in data]
    assert found == ["embed", *layer * (LAYERS - 1), *last, "head"]
    assert operators.count("rope_table") == 1
    assert operators.count("buffer") == 6


def test_equal_formats_are_stacked(tmp_path: Path) -> None:
    notes = load(write_folder(tmp_path / "tiny"))
    stacked = [[(p[1], p[2]) for p in parts] for (parts,), _ in notes.named("matrix_concat")]
    assert stacked == [[(64, 64), (32, 64), (32, 64)], [(INNER, 64), (INNER, 64)]] * LAYERS


def test_other_formats_get_a_column_range(tmp_path: Path) -> None:
    key = "model__layers__0__self_attn__k_proj__weight"
    notes = load(
        write_folder(tmp_path / "tiny", tensors=tensors(**{key: zeros(32, 64).astype(np.float16)}))
    )
    offsets = [o["out_offset"] for _, o in notes.named("linear") if "out_offset" in o]
    assert offsets == [0, 64, 96, 0, 0, 0]


def test_a_tied_head_is_packed_once(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "tiny", LLAMA | {"tie_word_embeddings": True})
    notes = load(folder)  # its file has a head nevertheless, which is not used
    tables = [a for a, _ in notes.named("matrix") if a[1] == VOCAB]
    assert len(tables) == 1
    ((x, _, _, matrix), _), ((table, out, _), _) = notes.named("head")[0], notes.named("embed")[0]
    assert (matrix, x) == (table, out)


def test_rows_beyond_the_vocabulary_are_padding(tmp_path: Path) -> None:
    name = "model__embed_tokens__weight"
    notes = load(
        write_folder(tmp_path / "tiny", tensors=tensors(**{name: zeros(VOCAB + 24, HIDDEN)}))
    )
    arguments, _ = notes.named("matrix")[0]
    assert arguments[1:3] == (VOCAB, HIDDEN)
    assert arguments[3].nbytes == VOCAB * HIDDEN * 4


@pytest.mark.parametrize(
    "name",
    ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    + [n for n in tensors() if ".layers.1." in n],
)
def test_missing_and_misshapen_tensors_are_named(tmp_path: Path, name: str) -> None:
    key = name.replace(".", "__")
    short = name.removeprefix("model.")
    with pytest.raises(ModelError, match=rf"the tensor '{short}' is missing"):
        load(write_folder(tmp_path / "missing", tensors=tensors(**{key: None})))
    value = tensors()[name]
    for wrong in (value[:-1].copy(), value.reshape(1, *value.shape)):
        with pytest.raises(ModelError, match=rf"tensor '{name}' has shape"):
            load(write_folder(tmp_path / "wrong", tensors=tensors(**{key: wrong})))


def test_unknown_tensors_are_refused(tmp_path: Path) -> None:
    extra = {"model__layers__0__self_attn__sinks": zeros(4)}
    with pytest.raises(
        UnsupportedModelError, match=r"'model\.layers\.0\.self_attn\.sinks' is not a part"
    ):
        load(write_folder(tmp_path / "tiny", tensors=tensors(**extra)))
    inverse = {"model__layers__0__self_attn__rotary_emb__inv_freq": zeros(8)}
    load(write_folder(tmp_path / "old", tensors=tensors(**inverse)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["MambaForCausalLM"]}, r"architectures: 'MambaForCausalLM' is not supp"),
        ({"architectures": None, "model_type": "mamba"}, r"model_type: 'mamba' is not supported"),
        ({"hidden_act": "relu"}, r"hidden_act: 'relu' is not supported"),
        (
            {"quantization_config": {"quant_method": "gptq"}},
            r"quantization_config: .*not supported",
        ),
        ({"num_key_value_heads": 3}, r"num_key_value_heads: 3 does not divide the 4 heads"),
        ({"head_dim": 15}, r"head_dim: 15 is odd"),
        ({"num_local_experts": 8}, r"num_local_experts: 8 is not supported"),
        ({"num_hidden_layers": 3}, r"'layers\.2\.input_layernorm\.weight' is missing"),
        ({"num_hidden_layers": 1}, r"'model\.layers\.1\..*' is not a part of llama"),
        ({"attention_bias": True}, r"'layers\.0\.self_attn\.q_proj\.bias' is missing"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, r"rope_type: 'dynamic' is not supp"),
    ],
)
def test_unsupported_values_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = write_folder(tmp_path / "tiny", LLAMA | change)
    with pytest.raises(ModelError, match=message) as failure:
        load(folder)
    assert str(folder) in str(failure.value)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"expert_count": 8}, r"llama\.expert_count: 8 is not supported"),
        ({"rope.dimension_count": 8}, r"llama\.rope\.dimension_count: 8 differs"),
        ({"attention.value_length": 8}, r"llama\.attention\.value_length: 8 differs"),
        ({"rope.scaling.type": "longrope"}, r"llama\.rope\.scaling\.type: 'longrope' is not supp"),
        ({"attention.max_alibi_bias": 8.0}, r"llama\.attention\.max_alibi_bias: this key"),
        ({"block_count": None}, r"llama\.block_count: the key is missing"),
        ({"embedding_length": "64"}, r"llama\.embedding_length: expected int, got '64'"),
    ],
)
def test_gguf_keys_are_named_as_in_the_file(
    tmp_path: Path, extra: dict[str, Any], message: str
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", extra)
    with pytest.raises(ModelError, match=message) as failure:
        load(path)
    assert str(path) in str(failure.value)


@pytest.mark.parametrize(
    "key",
    [
        "attention.head_count_kv",
        "attention.key_length",
        "attention.sliding_window",
        "attention.layer_norm_rms_epsilon",
        "context_length",
        "rope.freq_base",
    ],
)
def test_gemma_gguf_files_have_no_defaults(tmp_path: Path, key: str) -> None:
    """Folders may leave out what equals the defaults of transformers; GGUF files never do."""
    keys = {"attention.key_length": 16, "attention.sliding_window": 8, key: None}
    path = write_gguf(tmp_path / "tiny.gguf", keys, architecture="gemma3")
    name = re.escape(f"gemma3.{key}")
    with pytest.raises(ModelError, match=f"{name}: the key is missing"):
        load(path)


def test_a_llama_file_with_a_window_is_a_mistral(tmp_path: Path) -> None:
    notes = load(write_gguf(tmp_path / "tiny.gguf", {"attention.sliding_window": 8}))
    assert {options["window"] for _, options in notes.named("attention")} == {8}
    assert {options["interleaved"] for _, options in notes.named("rope")} == {True}


@pytest.mark.parametrize(
    ("extra", "max_positions"),
    [
        ({"type": "yarn", "factor": 4.0, "original_context_length": 128}, 512),
        ({"type": "yarn", "factor": 4.0, "original_context_length": 32}, 256),
        ({"type": "yarn", "factor": 4.0}, 256),
        ({"type": "linear", "factor": 4.0, "original_context_length": 128}, 256),
    ],
)
def test_a_gguf_file_tells_its_context_after_scaling(
    tmp_path: Path, extra: dict[str, Any], max_positions: int
) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, {f"rope.scaling.{key}": value for key, value in extra.items()})
    assert read_spec(checkpoint.open(local_files(path)).config).max_positions == max_positions


def test_unknown_gguf_architecture(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", architecture="mamba")
    with pytest.raises(UnsupportedModelError, match=r"general\.architecture: 'mamba' is not supp"):
        load(path)


def test_quantisation_changes_what_is_packed(tmp_path: Path) -> None:
    opened = checkpoint.open(local_files(write_folder(tmp_path / "tiny")))
    notes = Notes()
    lower(read_spec(opened.config), opened, notes, "int4")  # type: ignore[arg-type]
    stacked = {p[0] for (parts,), _ in notes.named("matrix_concat") for p in parts}
    assert stacked == {"Q4_1"}
    assert [a[0] for a, _ in notes.named("matrix")].count("Q8_0") == 2  # embedding and head


def test_gemma_norms_hold_one_less_in_folders(tmp_path: Path) -> None:
    """transformers multiplies by 1 + weight; GGUF files have the 1 added already."""
    config = LLAMA | {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "tie_word_embeddings": True,
    }
    weights = tensors(lm_head__weight=None)
    for layer in range(LAYERS):
        for norm in ("pre_feedforward_layernorm", "post_feedforward_layernorm"):
            weights[f"model.layers.{layer}.{norm}.weight"] = zeros(HIDDEN)
        for norm in ("q_norm", "k_norm"):
            weights[f"model.layers.{layer}.self_attn.{norm}.weight"] = zeros(16)
    notes = load(write_folder(tmp_path / "tiny", config, weights))
    norms = [values for (values,), _ in notes.named("vector") if len(values) == 16]
    assert len(norms) == 2 * LAYERS
    assert all((values == 1).all() for values in norms)
