"""Mistral: Llama with a sliding window on every layer (or on none)."""

from __future__ import annotations

from legato.models.decoder import attention, plain_decoder, read_sizes
from legato.models.rope import read_rope
from legato.models.spec import Attention, ModelSpec
from legato.weights.model_config import ModelConfig


def mistral(config: ModelConfig) -> ModelSpec:
    sizes = read_sizes(config)
    rope = read_rope(config, sizes.head_dim, default_base=10000.0)
    window = config.integer("sliding_window", 0, minimum=0)
    config.expect("layer_types")  # alternating windows are another architecture

    def attend(layer: int) -> Attention:
        return attention(layer, sizes, rope, window=window)

    return plain_decoder(config, sizes, attend)
