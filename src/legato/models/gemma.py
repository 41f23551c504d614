"""Gemma 3 (text): norms before and after each half of a layer, five sliding layers to a global one."""

from __future__ import annotations

import math
from typing import Final

from legato.models.decoder import (
    Sizes,
    activation,
    attention,
    gated_mlp,
    head,
    read_sizes,
    sliding_layers,
    tied_ignored,
)
from legato.models.rope import Rope, rope_from
from legato.models.spec import Attention, Embed, ModelSpec, Residual, RMSNorm
from legato.weights.model_config import ModelConfig

# transformers' defaults: published files leave out what equals them
DEFAULTS: Final = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 262208,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 131072,
}
# the image half of the multimodal model; in GGUF files that hold both, v.* and mm.*
VISION: Final = (r"(vision_tower|multi_modal_projector|v|mm)\..*",)


def gemma3(config: ModelConfig) -> ModelSpec:
    """``gemma3_text``, or the language model inside the multimodal ``gemma3``."""
    outer = config
    if config.has("text_config"):
        config = config.section("text_config")
        config.values.setdefault("model_type", "gemma3_text")
    sizes = read_sizes(config, **DEFAULTS)
    plus_one = not config.boolean("norms_hold_one", False)
    tied = config.boolean("tie_word_embeddings", outer.boolean("tie_word_embeddings", True))

    def norm(name: str) -> RMSNorm:
        return RMSNorm(f"{name}.weight", sizes.hidden, sizes.eps, plus_one=plus_one)

    attentions = _attentions(config, sizes, plus_one=plus_one)
    act = activation(config, "hidden_activation", "gelu_pytorch_tanh")
    residuals: list[Residual] = []
    for layer in range(sizes.layers):
        name = f"layers.{layer}"
        before, after = norm(f"{name}.input_layernorm"), norm(f"{name}.post_attention_layernorm")
        residuals.append(Residual(before, attentions[layer], after))
        before = norm(f"{name}.pre_feedforward_layernorm")
        after = norm(f"{name}.post_feedforward_layernorm")
        residuals.append(Residual(before, gated_mlp(layer, sizes, act), after))
    return ModelSpec(
        architecture=outer.text("model_type"),
        embed=Embed("embed_tokens.weight", sizes.vocab, sizes.hidden, math.sqrt(sizes.hidden)),
        residuals=tuple(residuals),
        head=head(config, sizes, norm("norm"), tied),
        max_positions=sizes.max_positions,
        ignored=VISION + tied_ignored(config, tied),
    )


def _attentions(config: ModelConfig, sizes: Sizes, *, plus_one: bool) -> list[Attention]:
    pattern = config.integer("sliding_window_pattern", 6)
    sliding = sliding_layers(
        config, sizes, [(layer + 1) % pattern != 0 for layer in range(sizes.layers)]
    )
    window = config.integer("sliding_window", 4096)
    ropes = {slides: _rope(config, sizes, slides) for slides in set(sliding)}
    bias = config.boolean("attention_bias", False)
    return [
        attention(
            layer,
            sizes,
            ropes[slides],
            bias=bias,
            out_bias=bias,
            window=window if slides else 0,
            scale=config.number("query_pre_attn_scalar", 256) ** -0.5,
            head_norms=True,
            plus_one=plus_one,
        )
        for layer, slides in enumerate(sliding)
    ]


def _rope(config: ModelConfig, sizes: Sizes, slides: bool) -> Rope:
    """Sliding layers: base 10000, never scaled. Global ones: base 1000000 and the scaling."""
    name, key = (
        ("sliding_attention", "rope_local_base_freq")
        if slides
        else ("full_attention", "rope_theta")
    )
    base = config.number(key, 10000.0 if slides else 1000000.0, above=1.0)
    section = ModelConfig(config.source, {})
    if config.has("rope_parameters"):
        section = config.section("rope_parameters")
        section.expect_keys("sliding_attention", "full_attention")
        section = section.section(name) if section.has(name) else ModelConfig(config.source, {})
    if config.has("rope_scaling") and not slides:
        section = config.section("rope_scaling")
    if not section.has("rope_theta"):
        section = ModelConfig(
            section.source, section.values | {"rope_theta": base}, section.labels, section.prefix
        )
    return rope_from(section, config, sizes.head_dim)
