"""A small Llama-like model twice: as a native program, and in plain numpy double precision."""

from dataclasses import dataclass, field

import numpy as np

from legato import _native as native


@dataclass
class SmallModel:
    layers: int = 2
    hidden: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    intermediate: int = 96
    vocabulary: int = 200
    eps: float = 1e-5
    interleaved: bool = False
    window: int = 0
    seed: int = 0
    weights: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes = {"embed": (self.vocabulary, self.hidden), "final": (self.hidden,)}
        for layer in range(self.layers):
            shapes |= {
                f"{layer}.norm1": (self.hidden,),
                f"{layer}.norm2": (self.hidden,),
                f"{layer}.q_norm": (self.head_dim,),
                f"{layer}.qkv": (q + 2 * kv, self.hidden),
                f"{layer}.qkv_bias": (q + 2 * kv,),
                f"{layer}.o": (self.hidden, q),
                f"{layer}.gate_up": (2 * self.intermediate, self.hidden),
                f"{layer}.down": (self.hidden, self.intermediate),
            }
        self.weights = {
            name: (rng.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32)
            + (len(shape) == 1)
            for name, shape in shapes.items()
        }
        half = np.arange(0, self.head_dim, 2, dtype=np.float64) / self.head_dim
        self.frequencies = (1.0 / 10000.0**half).astype(np.float32)

    def program(
        self, blocks: int, isa: str, threads: int = 2, max_tokens: int = 64, kv: str = "float32"
    ):
        p = native.Program(
            isa=isa, threads=threads, max_tokens=max_tokens, max_logit_rows=max_tokens
        )
        w = {
            name: p.matrix("F32", *value.shape, value) if value.ndim == 2 else p.vector(value)
            for name, value in self.weights.items()
        }
        q, kv_width = self.heads * self.head_dim, self.kv_heads * self.head_dim
        x, normed, qkv = p.buffer(self.hidden), p.buffer(self.hidden), p.buffer(q + 2 * kv_width)
        attended, mlp, gated = (
            p.buffer(q),
            p.buffer(2 * self.intermediate),
            p.buffer(self.intermediate),
        )
        table = p.rope_table(p.vector(self.frequencies), 1.0)
        p.kv_cache(
            layers=self.layers,
            blocks=blocks,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            dtype=kv,
        )
        rope = {
            "head_dim": self.head_dim,
            "rotary_dim": self.head_dim,
            "interleaved": self.interleaved,
        }
        p.embed(w["embed"], x)
        for i in range(self.layers):
            p.rms_norm(x, w[f"{i}.norm1"], normed, self.eps)
            is_last = i + 1 == self.layers
            bias, read_outputs = w[f"{i}.qkv_bias"], q if is_last else 0
            p.linear(normed, w[f"{i}.qkv"], qkv, bias=bias, read_outputs=read_outputs)
            p.head_norm(
                qkv, w[f"{i}.q_norm"], self.eps, offset=0, heads=self.heads, head_dim=self.head_dim
            )
            p.rope(qkv, table, offset=0, heads=self.heads + self.kv_heads, **rope)
            p.kv_write(i, qkv, q, qkv, q + kv_width)
            if is_last:
                p.gather([x, qkv])
            scale = self.head_dim**-0.5
            p.attention(i, qkv, 0, attended, heads=self.heads, scale=scale, window=self.window)
            p.linear(attended, w[f"{i}.o"], x, accumulate=True)
            p.rms_norm(x, w[f"{i}.norm2"], normed, self.eps)
            p.linear(normed, w[f"{i}.gate_up"], mlp)
            p.gated(mlp, 0, self.intermediate, gated, "silu")
            p.linear(gated, w[f"{i}.down"], x, accumulate=True)
        p.head(x, w["final"], self.eps, w["embed"])
        return p

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """[T, vocabulary] in double precision, all positions of one sequence."""
        w = {name: value.astype(np.float64) for name, value in self.weights.items()}
        count, q = len(tokens), self.heads * self.head_dim
        position = np.arange(count)
        distance = position[:, None] - position[None, :]
        hidden = (distance < 0) | ((distance >= self.window) if self.window else False)
        x = w["embed"][tokens]
        for i in range(self.layers):
            qkv = self.norm(x, w[f"{i}.norm1"]) @ w[f"{i}.qkv"].T + w[f"{i}.qkv_bias"]
            heads = qkv.reshape(count, -1, self.head_dim)
            queries = self.rotate(self.norm(heads[:, : self.heads], w[f"{i}.q_norm"]))
            keys = self.rotate(heads[:, self.heads : self.heads + self.kv_heads])
            values = heads[:, self.heads + self.kv_heads :]
            group = self.heads // self.kv_heads
            scores = np.einsum("thd,shd->hts", queries, keys.repeat(group, 1)) * self.head_dim**-0.5
            scores[:, hidden] = -np.inf
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            scores /= scores.sum(-1, keepdims=True)
            attended = np.einsum("hts,shd->thd", scores, values.repeat(group, 1)).reshape(count, q)
            x = x + attended @ w[f"{i}.o"].T
            gate, up = np.split(self.norm(x, w[f"{i}.norm2"]) @ w[f"{i}.gate_up"].T, 2, axis=1)
            x = x + (gate / (1 + np.exp(-gate)) * up) @ w[f"{i}.down"].T
        return self.norm(x, w["final"]) @ w["embed"].T

    def norm(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + self.eps) * weight

    def rotate(self, x: np.ndarray) -> np.ndarray:
        angle = np.arange(len(x))[:, None, None] * self.frequencies.astype(np.float64)
        cos, sin = np.cos(angle), np.sin(angle)
        half = self.head_dim // 2
        a, b = (x[..., 0::2], x[..., 1::2]) if self.interleaved else (x[..., :half], x[..., half:])
        first, second = a * cos - b * sin, b * cos + a * sin
        if self.interleaved:
            return np.stack([first, second], -1).reshape(x.shape)
        return np.concatenate([first, second], -1)
