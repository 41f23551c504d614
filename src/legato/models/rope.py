"""Rotary position embedding: which frequencies a checkpoint asks for.

A head's pair i turns by position * inverse_frequency[i]. The scalings are those of transformers:
linear, llama3 and yarn; their formulas follow the papers' definitions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from legato.weights.model_config import REQUIRED, ModelConfig

F64 = NDArray[np.float64]
MOST_POSITIONS: Final = 2**31 - 1


@dataclass(frozen=True)
class LinearScaling:
    """All frequencies are divided by ``factor``."""

    factor: float


@dataclass(frozen=True)
class Llama3Scaling:
    """Long wavelengths are divided by ``factor``, short ones kept, those between blended."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_positions: int


@dataclass(frozen=True)
class YarnScaling:
    """Dimensions that turn often are kept, those that turn seldom divided by ``factor``."""

    factor: float
    original_positions: int
    beta_fast: float
    beta_slow: float
    truncate: bool
    attention_factor: float  # multiplies cos and sin


@dataclass(frozen=True)
class Rope:
    """``interleaved``: pairs (0, 1), (2, 3) ... as in GGUF's llama files; else (i, i + dim / 2).

    ``factors`` names a tensor [dim / 2] that divides the frequencies (GGUF's form of llama3).
    """

    dim: int
    base: float
    scaling: LinearScaling | Llama3Scaling | YarnScaling | None = None
    interleaved: bool = False
    factors: str | None = None

    @property
    def scale(self) -> float:
        """Multiplies cos and sin."""
        return self.scaling.attention_factor if isinstance(self.scaling, YarnScaling) else 1.0

    def stretched(self, positions: int) -> int:
        """A context of ``positions``, as long as the scaling makes it. Whoever switches a scaling on, as
        model cards say to, leaves ``max_position_embeddings`` as it was. Llama 3's has it included."""
        match self.scaling:
            case LinearScaling(factor):
                longer = positions * factor
            case YarnScaling(factor, original):
                longer = original * factor
            case _:
                longer = positions
        return max(positions, int(min(longer, MOST_POSITIONS)))


def inverse_frequencies(rope: Rope) -> F64:
    """[dim / 2], before division by the tensor ``rope.factors``."""
    plain: F64 = rope.base ** -(np.arange(0, rope.dim, 2, dtype=np.float64) / rope.dim)
    match rope.scaling:
        case LinearScaling(factor):
            return plain / factor
        case Llama3Scaling():
            return _llama3(plain, rope.scaling)
        case YarnScaling():
            return _yarn(plain, rope, rope.scaling)
    return plain


def _llama3(plain: F64, s: Llama3Scaling) -> F64:
    turns = s.original_positions * plain / (2 * math.pi)  # in the original context
    kept = (turns - s.low_frequency_factor) / (s.high_frequency_factor - s.low_frequency_factor)
    kept = np.clip(kept, 0.0, 1.0)
    return (1 - kept) * plain / s.factor + kept * plain


def _yarn(plain: F64, rope: Rope, s: YarnScaling) -> F64:
    def dimension(turns: float) -> float:
        """The pair that makes this many turns in the original context."""
        wavelength = s.original_positions / (turns * 2 * math.pi)
        return rope.dim * math.log(wavelength) / (2 * math.log(rope.base))

    low, high = dimension(s.beta_fast), dimension(s.beta_slow)
    if s.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    width = high - low if high != low else 0.001
    divided: F64 = np.clip((np.arange(rope.dim // 2) - low) / width, 0.0, 1.0)
    return plain / s.factor * divided + plain * (1 - divided)


def read_rope(config: ModelConfig, dim: int, *, default_base: Any = REQUIRED) -> Rope:
    """From ``rope_theta`` and ``rope_scaling``, or ``rope_parameters`` (transformers 5), which holds both."""
    for key in ("rope_scaling", "rope_parameters"):
        if config.values.get(key):
            return rope_from(config.section(key), config, dim, default_base=default_base)
    return rope_from(ModelConfig(config.source, {}), config, dim, default_base=default_base)


def rope_from(
    section: ModelConfig, config: ModelConfig, dim: int, *, default_base: Any = REQUIRED
) -> Rope:
    """``section`` wins over ``config``, where older files keep base and original length."""
    holder = section if section.has("rope_theta") else config
    base = holder.number("rope_theta", default_base, above=1.0)
    for holder in (section, config):
        holder.expect("partial_rotary_factor", 1, 1.0)
    if dim % 2:
        config.fail("head_dim", f"{dim} is odd: the rotation needs pairs")
    kind = section.text("rope_type", section.text("type", "default"))
    factors = "rope_freqs.weight" if config.boolean("rope_frequency_factors", False) else None
    interleaved = config.boolean("rope_pairs_interleaved", False)
    return Rope(dim, base, _scaling(section, config, kind), interleaved, factors)


def _scaling(
    section: ModelConfig, config: ModelConfig, kind: str
) -> LinearScaling | Llama3Scaling | YarnScaling | None:
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    if kind in ("default", "none"):
        section.expect_keys(*known, "factor", "original_max_position_embeddings")
        section.expect("factor", 1, 1.0)
        return None
    if kind == "linear":
        section.expect_keys(*known, "factor", "original_max_position_embeddings")
        return LinearScaling(section.number("factor"))
    if kind == "llama3":
        return _read_llama3(section, config, known)
    if kind == "yarn":
        return _read_yarn(section, config, known)
    section.refuse(
        "rope_type", f"{kind!r} is not supported (supported: default, linear, llama3, yarn)"
    )


def _original_positions(section: ModelConfig, config: ModelConfig) -> int:
    """As transformers: a key outside the section wins, and the context length is the default."""
    key = "original_max_position_embeddings"
    holder = config if config.has(key) else section
    return holder.integer(key, config.integer("max_position_embeddings"))


def _read_llama3(section: ModelConfig, config: ModelConfig, known: set[str]) -> Llama3Scaling:
    keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    section.expect_keys(*known, *keys)
    factor, low, high = (section.number(key) for key in keys[:3])
    if high <= low:
        section.fail("high_freq_factor", f"must be greater than low_freq_factor ({low:g})")
    return Llama3Scaling(factor, low, high, _original_positions(section, config))


def _read_yarn(section: ModelConfig, config: ModelConfig, known: set[str]) -> YarnScaling:
    keys = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "truncate")
    section.expect_keys(*known, *keys, "attention_factor", "mscale", "mscale_all_dim")
    factor = section.number("factor")
    return YarnScaling(
        factor,
        _original_positions(section, config),
        section.number("beta_fast", 32.0),
        section.number("beta_slow", 1.0),
        section.boolean("truncate", True),
        section.number("attention_factor", _attention_factor(section, factor)),
    )


def _attention_factor(section: ModelConfig, factor: float) -> float:
    def magnitude(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if section.has("mscale") and section.has("mscale_all_dim"):
        above = -math.inf
        mscale = (
            section.number("mscale", above=above),
            section.number("mscale_all_dim", above=above),
        )
        if all(mscale):
            return magnitude(mscale[0]) / magnitude(mscale[1])
    return magnitude(1.0)
