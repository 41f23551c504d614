"""Llama 1 to 3.x and what follows its plan, SmolLM2 among them."""

from __future__ import annotations

from legato.models.decoder import attention, plain_decoder, read_sizes
from legato.models.rope import read_rope
from legato.models.spec import Attention, ModelSpec
from legato.weights.model_config import ModelConfig


def llama(config: ModelConfig) -> ModelSpec:
    """Llama 1 and 2 do not write the base of their rotation: it is 10000."""
    sizes = read_sizes(config)
    rope = read_rope(config, sizes.head_dim, default_base=10000.0)
    bias = config.boolean("attention_bias", False)
    out_bias = config.boolean("attention_out_bias", bias)

    def attend(layer: int) -> Attention:
        return attention(layer, sizes, rope, bias=bias, out_bias=out_bias)

    return plain_decoder(config, sizes, attend, mlp_bias=config.boolean("mlp_bias", False))
