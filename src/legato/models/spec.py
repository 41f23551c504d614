"""The vocabulary of layers. A model file says with these what a model is; ``lower.py`` makes it run.

Everything is data: names of tensors, sizes and constants. A decoder is an ``Embed``, then a stream of
``Residual`` steps (x = x + body(norm(x))), then a ``Head``.
"""

from __future__ import annotations

from dataclasses import dataclass

from legato.models.rope import Rope


@dataclass(frozen=True)
class Embed:
    """x = table[token] * scale; the table is [vocab, width]."""

    weight: str
    vocab: int
    width: int
    scale: float = 1.0


@dataclass(frozen=True)
class Linear:
    """y = x @ weight.T + bias; the weight is [rows, columns]."""

    weight: str
    rows: int
    columns: int
    bias: str | None = None


@dataclass(frozen=True)
class RMSNorm:
    """y = x / sqrt(mean(x^2) + eps) * weight. ``plus_one``: the file holds weight - 1."""

    weight: str
    width: int
    eps: float
    plus_one: bool = False


@dataclass(frozen=True)
class Attention:
    """Causal, grouped: ``heads`` is a multiple of ``kv_heads``. ``window`` 0: all positions are seen.

    Order: q, k, v; norms of the heads; rotation; attention; o.
    """

    q: Linear
    k: Linear
    v: Linear
    o: Linear
    heads: int
    kv_heads: int
    head_dim: int
    scale: float  # of the scores
    rope: Rope
    window: int = 0
    q_norm: RMSNorm | None = None
    k_norm: RMSNorm | None = None


@dataclass(frozen=True)
class GatedMLP:
    """y = down(act(gate(x)) * up(x)); activation: silu | gelu_tanh | gelu."""

    gate: Linear
    up: Linear
    down: Linear
    activation: str


@dataclass(frozen=True)
class Residual:
    """x = x + post_norm(body(norm(x)))."""

    norm: RMSNorm
    body: Attention | GatedMLP
    post_norm: RMSNorm | None = None


@dataclass(frozen=True)
class Head:
    """logits = norm(x) @ weight.T; the weight is [vocab, width], the embedding's own when tied."""

    norm: RMSNorm
    weight: str
    vocab: int
    width: int


@dataclass(frozen=True)
class ModelSpec:
    """A decoder. ``ignored``: patterns of tensor names that may be in the files and are not used."""

    architecture: str
    embed: Embed
    residuals: tuple[Residual, ...]
    head: Head
    max_positions: int
    ignored: tuple[str, ...] = ()

    @property
    def attentions(self) -> list[Attention]:
        """In the order of the layers: the n-th uses layer n of the KV cache."""
        return [step.body for step in self.residuals if isinstance(step.body, Attention)]
