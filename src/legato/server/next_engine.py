"""What an engine that takes another one's place has in common with it."""

from __future__ import annotations

from dataclasses import replace

from legato.config import EngineConfig
from legato.errors import ModelError
from legato.models.info import ModelInfo


def like_the_first(config: EngineConfig, info: ModelInfo) -> EngineConfig:
    """Free memory decides how large the cache is, but only once: the answers that an engine has begun
    must fit into the next one."""
    return replace(
        config,
        max_model_len=info.max_model_len,
        kv_cache_memory=info.num_blocks * info.kv_bytes_per_block or config.kv_cache_memory,
    )


def need_same_weights(first: ModelInfo, info: ModelInfo) -> None:
    """Answers were begun with those of the ``first`` engine, and are spelled with its tokenizer. Raises
    ModelError."""
    if info.weights != first.weights:
        raise ModelError(
            f"{info.name}: its files have changed since the server started, which has to be "
            "started anew for them"
        )
