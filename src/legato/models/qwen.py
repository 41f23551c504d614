"""Qwen 2 and 2.5 (biases on q, k and v) and Qwen 3 (norms of the heads instead)."""

from __future__ import annotations

from legato.models.decoder import Sizes, attention, plain_decoder, read_sizes, sliding_layers
from legato.models.rope import read_rope
from legato.models.spec import Attention, ModelSpec
from legato.weights.model_config import ModelConfig


def qwen2(config: ModelConfig) -> ModelSpec:
    sizes = read_sizes(config)
    rope = read_rope(config, sizes.head_dim, default_base=10000.0)
    windows = _windows(config, sizes)

    def attend(layer: int) -> Attention:
        return attention(layer, sizes, rope, bias=True, window=windows[layer])

    return plain_decoder(config, sizes, attend)


def qwen3(config: ModelConfig) -> ModelSpec:
    sizes = read_sizes(config)
    rope = read_rope(config, sizes.head_dim, default_base=10000.0)
    windows = _windows(config, sizes)
    bias = config.boolean("attention_bias", False)

    def attend(layer: int) -> Attention:
        return attention(
            layer,
            sizes,
            rope,
            bias=bias,
            out_bias=bias,
            window=windows[layer],
            head_norms=True,
        )

    return plain_decoder(config, sizes, attend)


def _windows(config: ModelConfig, sizes: Sizes) -> list[int]:
    """Each layer's window. Off unless ``use_sliding_window``; then from ``max_window_layers`` on."""
    if not config.boolean("use_sliding_window", False):
        return [0] * sizes.layers
    window = config.integer("sliding_window")
    first = 0
    if not config.has("layer_types"):
        first = config.integer("max_window_layers", minimum=0)
    sliding = sliding_layers(config, sizes, [layer >= first for layer in range(sizes.layers)])
    return [window if slides else 0 for slides in sliding]
