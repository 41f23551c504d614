"""From settings to a loaded model: sizes of the KV cache, and settings that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_files import LLAMA, write_folder

from legato import models
from legato.config import EngineConfig
from legato.errors import ConfigError, ModelError
from legato.models.loading import plan_kv
from legato.models.registry import read_spec
from legato.models.spec import ModelSpec
from legato.server.next_engine import like_the_first
from legato.weights.model_config import ModelConfig

# 2 layers * (k and v) * 2 heads * 16 * 2 bytes * 16 positions
BLOCK_BYTES = 2 * 2 * 2 * 16 * 2 * 16


@pytest.fixture
def spec() -> ModelSpec:
    return read_spec(ModelConfig(Path("config.json"), LLAMA))


def config(**settings: object) -> EngineConfig:
    return EngineConfig(**({"kv_cache_memory": 2**30} | settings))  # type: ignore[arg-type]


def test_no_more_blocks_than_sequences_need(spec: ModelSpec) -> None:
    plan = plan_kv(config(max_num_seqs=3), spec, context=100)
    assert (plan.blocks, plan.max_model_len, plan.bytes_per_block) == (3 * 7, 100, BLOCK_BYTES)


def test_no_more_blocks_than_memory(spec: ModelSpec) -> None:
    plan = plan_kv(config(kv_cache_memory=20 * BLOCK_BYTES + 1), spec, context=256)
    assert (plan.blocks, plan.max_model_len) == (20, 256)


def test_wider_elements_take_more(spec: ModelSpec) -> None:
    assert plan_kv(config(kv_cache_dtype="float32"), spec, 100).bytes_per_block == 2 * BLOCK_BYTES


def test_integers_take_half_and_a_scale_for_each_head_and_position(spec: ModelSpec) -> None:
    scales = 2 * 2 * 2 * 4 * 16
    plan = plan_kv(config(kv_cache_dtype="int8"), spec, 100)
    assert plan.bytes_per_block == BLOCK_BYTES // 2 + scales


def test_a_default_context_shrinks_to_the_memory(
    spec: ModelSpec, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_kv(config(kv_cache_memory=5 * BLOCK_BYTES), spec, context=256)
    assert (plan.blocks, plan.max_model_len) == (5, 80)
    assert "max_model_len is 80 instead of the model's 256" in caplog.text


def test_a_context_that_was_asked_for_does_not(spec: ModelSpec) -> None:
    settings = config(kv_cache_memory=5 * BLOCK_BYTES, max_model_len=200)
    with pytest.raises(ConfigError, match="max_model_len 200 needs") as failure:
        plan_kv(settings, spec, context=200)
    assert failure.value.field == "max_model_len"


def test_not_even_one_block(spec: ModelSpec) -> None:
    with pytest.raises(ConfigError, match="kv_cache_memory is too small") as failure:
        plan_kv(config(kv_cache_memory=BLOCK_BYTES - 1), spec, context=100)
    assert failure.value.field == "kv_cache_memory"


def test_load(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "tiny-model")
    model = models.load(config(model=str(folder), max_model_len=64, max_num_seqs=2, threads=1))
    info = model.info
    assert (info.name, info.architecture, info.vocab_size) == ("tiny-model", "llama", 40)
    assert (info.max_model_len, info.num_blocks, info.eos_token_ids) == (64, 8, [2])
    assert info.weight_bytes == model.program.weight_bytes() > 0
    assert model.program.kv_bytes_reserved() >= 8 * BLOCK_BYTES


@pytest.mark.parametrize("has_draft", [False, True])
def test_the_next_engine_has_as_much_room(tmp_path: Path, has_draft: bool) -> None:
    """Free memory decides once, whatever the cache holds."""
    folder = str(write_folder(tmp_path / "tiny"))
    draft = folder if has_draft else None
    settings = config(model=folder, draft_model=draft, kv_cache_memory=40 * BLOCK_BYTES)
    first = models.load(settings).info
    settings = like_the_first(settings, first)
    again = models.load(settings).info
    assert first == again == models.load(like_the_first(settings, again)).info
    assert first.num_blocks == (20 if has_draft else 40)


def test_settings_that_do_not_fit(tmp_path: Path) -> None:
    folder = str(write_folder(tmp_path / "tiny"))
    with pytest.raises(ConfigError, match="max_model_len 257 is more than the model's 256"):
        models.load(config(model=folder, max_model_len=257))
    with pytest.raises(ConfigError, match="isa: 'sse9' is not one of scalar"):
        models.load(config(model=folder, isa="sse9"))
    with pytest.raises(ModelError, match="nowhere: there is no such file"):
        models.load(config(model="nowhere"))


def test_weights_that_do_not_fit_are_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(write_folder(tmp_path / "tiny"))
    monkeypatch.setattr("legato.models.loading.available_memory", lambda: 200_000)
    models.load(config(model=folder, quantization="int4"))
    with pytest.raises(ModelError, match="tiny: its weights take 0 MB of memory, 0 MB are free"):
        models.load(config(model=folder))
