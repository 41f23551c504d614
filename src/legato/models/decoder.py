"""What the supported families share: sizes, the names of a layer's tensors, the plain decoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from legato.models.rope import Rope
from legato.models.spec import (
    Attention,
    Embed,
    GatedMLP,
    Head,
    Linear,
    ModelSpec,
    Residual,
    RMSNorm,
)
from legato.weights.model_config import REQUIRED, ModelConfig

ACTIVATIONS: Final = {
    "silu": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu": "gelu",
}
IGNORED: Final = (r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)
"""Tensors that old checkpoints carry and that follow from the configuration."""

MAX_LAYERS: Final = 4096


@dataclass(frozen=True)
class Sizes:
    """The numbers that every decoder has."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    eps: float
    max_positions: int


def read_sizes(config: ModelConfig, **defaults: Any) -> Sizes:
    """``defaults``: values of keys that the family's files leave out, by their names in the config."""
    hidden = config.integer("hidden_size")
    heads = config.integer("num_attention_heads", defaults.get("num_attention_heads", REQUIRED))
    kv_heads = config.integer("num_key_value_heads", defaults.get("num_key_value_heads", heads))
    if heads % kv_heads:
        config.fail("num_key_value_heads", f"{kv_heads} does not divide the {heads} heads")
    if not config.has("head_dim") and "head_dim" not in defaults and hidden % heads:
        config.fail("num_attention_heads", f"{heads} does not divide hidden_size {hidden}")
    if config.integer("num_hidden_layers") > MAX_LAYERS:
        config.fail("num_hidden_layers", f"is out of range (at most {MAX_LAYERS})")
    refuse_foreign(config)
    return Sizes(
        hidden=hidden,
        intermediate=config.integer("intermediate_size"),
        layers=config.integer("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=config.integer("head_dim", defaults.get("head_dim", hidden // heads)),
        vocab=config.integer("vocab_size", defaults.get("vocab_size", REQUIRED)),
        eps=config.number("rms_norm_eps", defaults.get("rms_norm_eps", REQUIRED)),
        max_positions=config.integer(
            "max_position_embeddings", defaults.get("max_position_embeddings", REQUIRED)
        ),
    )


def refuse_foreign(config: ModelConfig) -> None:
    """Keys that would change the numbers of any decoder, and that none of the families supports."""
    config.expect("quantization_config")
    config.expect("num_local_experts", 0, 1)
    config.expect("num_experts", 0, 1)
    config.expect("attention_scale", 0, 0.0)
    config.expect("attn_logit_softcapping", 0, 0.0)
    config.expect("final_logit_softcapping", 0, 0.0)
    config.expect("use_bidirectional_attention", False)
    config.expect("rope_interleaved", False)
    for multiplier in ("logit_scale", "residual_multiplier", "embedding_multiplier"):
        config.expect(multiplier, 1, 1.0)


def activation(config: ModelConfig, key: str = "hidden_act", default: Any = REQUIRED) -> str:
    name = config.text(key, default)
    config.expect(key, *ACTIVATIONS)
    return ACTIVATIONS[name]


def linear(name: str, rows: int, columns: int, bias: bool) -> Linear:
    return Linear(f"{name}.weight", rows, columns, f"{name}.bias" if bias else None)


def attention(
    layer: int,
    sizes: Sizes,
    rope: Rope,
    *,
    bias: bool = False,
    out_bias: bool = False,
    window: int = 0,
    scale: float | None = None,
    head_norms: bool = False,
    plus_one: bool = False,
) -> Attention:
    """``bias``: of q, k and v. ``scale`` None: 1 / sqrt(head_dim)."""
    name = f"layers.{layer}.self_attn"
    q_rows, kv_rows = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim

    def head_norm(part: str) -> RMSNorm | None:
        if not head_norms:
            return None
        return RMSNorm(f"{name}.{part}.weight", sizes.head_dim, sizes.eps, plus_one)

    return Attention(
        q=linear(f"{name}.q_proj", q_rows, sizes.hidden, bias),
        k=linear(f"{name}.k_proj", kv_rows, sizes.hidden, bias),
        v=linear(f"{name}.v_proj", kv_rows, sizes.hidden, bias),
        o=linear(f"{name}.o_proj", sizes.hidden, q_rows, out_bias),
        heads=sizes.heads,
        kv_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        scale=sizes.head_dim**-0.5 if scale is None else scale,
        rope=rope,
        window=window,
        q_norm=head_norm("q_norm"),
        k_norm=head_norm("k_norm"),
    )


def gated_mlp(layer: int, sizes: Sizes, act: str, *, bias: bool = False) -> GatedMLP:
    name = f"layers.{layer}.mlp"
    return GatedMLP(
        gate=linear(f"{name}.gate_proj", sizes.intermediate, sizes.hidden, bias),
        up=linear(f"{name}.up_proj", sizes.intermediate, sizes.hidden, bias),
        down=linear(f"{name}.down_proj", sizes.hidden, sizes.intermediate, bias),
        activation=act,
    )


def plain_decoder(
    config: ModelConfig,
    sizes: Sizes,
    attend: Callable[[int], Attention],
    *,
    mlp_bias: bool = False,
    tied_default: Any = False,
) -> ModelSpec:
    """Llama's frame: a norm before each half of a layer, one before the head."""

    def norm(name: str) -> RMSNorm:
        return RMSNorm(f"{name}.weight", sizes.hidden, sizes.eps)

    act = activation(config)
    residuals: list[Residual] = []
    for layer in range(sizes.layers):
        name = f"layers.{layer}"
        mlp = gated_mlp(layer, sizes, act, bias=mlp_bias)
        residuals.append(Residual(norm(f"{name}.input_layernorm"), attend(layer)))
        residuals.append(Residual(norm(f"{name}.post_attention_layernorm"), mlp))
    return ModelSpec(
        architecture=config.text("model_type"),
        embed=Embed("embed_tokens.weight", sizes.vocab, sizes.hidden),
        residuals=tuple(residuals),
        head=head(config, sizes, norm("norm"), tied_default),
        max_positions=_context_length(config, sizes, attend(0).rope),
        ignored=IGNORED + tied_ignored(config, tied_default),
    )


def _context_length(config: ModelConfig, sizes: Sizes, rope: Rope) -> int:
    is_stretched = config.boolean("context_is_stretched", False)
    return sizes.max_positions if is_stretched else rope.stretched(sizes.max_positions)


def head(config: ModelConfig, sizes: Sizes, norm: RMSNorm, tied_default: bool) -> Head:
    tied = config.boolean("tie_word_embeddings", tied_default)
    weight = "embed_tokens.weight" if tied else "lm_head.weight"
    return Head(norm, weight, sizes.vocab, sizes.hidden)


def tied_ignored(config: ModelConfig, tied_default: bool) -> tuple[str, ...]:
    """A tied head is sometimes stored a second time."""
    tied = config.boolean("tie_word_embeddings", tied_default)
    return (r"lm_head\.weight",) if tied else ()


def sliding_layers(config: ModelConfig, sizes: Sizes, default: list[bool]) -> list[bool]:
    """Which layers see a window only: from ``layer_types``, or the family's default."""
    if not config.has("layer_types"):
        return default
    kinds = config.items("layer_types")
    if len(kinds) != sizes.layers:
        config.fail("layer_types", f"{len(kinds)} entries for {sizes.layers} layers")
    for kind in kinds:
        if kind not in ("full_attention", "sliding_attention"):
            config.refuse("layer_types", f"{kind!r} is not supported")
    return [kind == "sliding_attention" for kind in kinds]
