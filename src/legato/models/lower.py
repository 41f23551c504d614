"""Spec and tensors -> the native program. Every tensor is checked, packed once, and let go.

The buffers of a program (float32 [tokens, width]):

    stream   the residual stream            [hidden]
    normed   the norm's output              [hidden]
    qkv      queries, keys, values          [q | k | v]
    heads    what the attention gathered    [heads * head_dim]
    gate_up  both halves of the MLP         [gate | up]
    gated    their product                  [intermediate]
    branch   a body's output, when a norm follows it [hidden]
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from legato.errors import ModelError, UnsupportedModelError
from legato.models.rope import Rope, inverse_frequencies
from legato.models.spec import Attention, GatedMLP, Linear, ModelSpec, Residual, RMSNorm
from legato.weights.quantize import quantize, target_format
from legato.weights.tensor import Checkpoint, Tensor

if TYPE_CHECKING:
    from legato import _native as native
    from legato.weights.packed_file import PackedFile

NO_BIAS = -1


def lower(
    spec: ModelSpec,
    checkpoint: Checkpoint,
    program: native.Program,
    quantization: str = "none",
    kept: PackedFile | None = None,
) -> None:
    """Adds the operators of ``spec`` to an empty program. Raises ``ModelError`` naming the tensor.

    ``kept``: matrices that need not be packed again, and where those that are packed are noted.
    """
    Lowering(spec, checkpoint, program, quantization, kept).run()


class Lowering:
    """One pass over the spec. Buffers and rope tables are made when first asked for, then shared."""

    def __init__(
        self,
        spec: ModelSpec,
        checkpoint: Checkpoint,
        program: native.Program,
        quantization: str,
        kept: PackedFile | None = None,
    ) -> None:
        self.spec = spec
        self.checkpoint = checkpoint
        self.program = program
        self.quantization = quantization
        self.kept = kept
        self.used: set[str] = set()
        self.buffers: dict[tuple[str, int], int] = {}
        self.tables: dict[Rope, int] = {}
        self.kv_layers = 0
        attentions = [step for step in spec.residuals if isinstance(step.body, Attention)]
        self.last_attention = attentions[-1].body if attentions else None

    def run(self) -> None:
        embed, head = self.spec.embed, self.spec.head
        self.stream = stream = self.buffer("stream", embed.width)
        table = self.table(embed.weight, embed.vocab, embed.width)
        self.program.embed(table, stream, embed.scale)
        for step in self.spec.residuals:
            self.residual(step, stream)
        matrix = table
        if head.weight != embed.weight:
            matrix = self.table(head.weight, head.vocab, head.width)
        self.program.head(stream, self.norm_weight(head.norm), head.norm.eps, matrix)
        self.refuse_unused()

    # -- layers -------------------------------------------------------------------------------

    def residual(self, step: Residual, stream: int) -> None:
        """x = x + post_norm(body(norm(x))); without a post norm the last product adds to x itself."""
        normed = self.buffer("normed", step.norm.width)
        self.program.rms_norm(stream, self.norm_weight(step.norm), normed, step.norm.eps)
        out = stream
        if step.post_norm is not None:
            out = self.buffer("branch", step.post_norm.width)
        if isinstance(step.body, Attention):
            self.attention(step.body, normed, out, accumulate=out == stream)
        else:
            self.gated_mlp(step.body, normed, out, accumulate=out == stream)
        if step.post_norm is not None:
            self.program.rms_norm(out, self.norm_weight(step.post_norm), out, step.post_norm.eps)
            self.program.add(stream, out)

    def attention(self, body: Attention, x: int, out: int, *, accumulate: bool) -> None:
        k_offset = body.q.rows
        v_offset = k_offset + body.k.rows
        qkv = self.buffer("qkv", v_offset + body.v.rows)
        # Keys and values are all that anybody reads of a row in the last layer, unless it wants logits.
        is_last = body is self.last_attention
        self.stacked([body.q, body.k, body.v], x, qkv, read_outputs=body.q.rows if is_last else 0)
        for norm, offset, heads in (
            (body.q_norm, 0, body.heads),
            (body.k_norm, k_offset, body.kv_heads),
        ):
            if norm is not None:
                weight = self.norm_weight(norm)
                self.program.head_norm(
                    qkv, weight, norm.eps, offset=offset, heads=heads, head_dim=body.head_dim
                )
        # q and k are neighbours: one rotation turns the heads of both
        self.program.rope(
            qkv,
            self.rope_table(body.rope),
            offset=0,
            heads=body.heads + body.kv_heads,
            head_dim=body.head_dim,
            rotary_dim=body.rope.dim,
            interleaved=body.rope.interleaved,
        )
        layer = self.kv_layers
        self.kv_layers += 1
        gathered = self.buffer("heads", body.q.rows)
        self.program.kv_write(layer, qkv, k_offset, qkv, v_offset)
        if is_last:
            self.program.gather([self.stream, qkv])
        self.program.attention(
            layer, qkv, 0, gathered, heads=body.heads, scale=body.scale, window=body.window
        )
        self.linear(body.o, gathered, out, accumulate=accumulate)

    def gated_mlp(self, body: GatedMLP, x: int, out: int, *, accumulate: bool) -> None:
        gate_up = self.buffer("gate_up", body.gate.rows + body.up.rows)
        gated = self.buffer("gated", body.down.columns)
        self.stacked([body.gate, body.up], x, gate_up)
        self.program.gated(gate_up, 0, body.gate.rows, gated, body.activation)
        self.linear(body.down, gated, out, accumulate=accumulate)

    # -- products -----------------------------------------------------------------------------

    def linear(self, part: Linear, x: int, out: int, *, accumulate: bool) -> None:
        self.program.linear(
            x, self.matrix([part]), out, bias=self.bias([part]), accumulate=accumulate
        )

    def stacked(self, parts: list[Linear], x: int, out: int, read_outputs: int = 0) -> None:
        """Products of one input, side by side in ``out``. Neighbours of one format are one matrix.

        ``read_outputs``: as many of the first columns matter only where logits are wanted.
        """
        offset = 0
        for _, group in groupby(parts, key=self.packed_format):
            run = list(group)
            rows = sum(part.rows for part in run)
            self.program.linear(
                x,
                self.matrix(run),
                out,
                bias=self.bias(run),
                out_offset=offset,
                read_outputs=min(max(read_outputs - offset, 0), rows),
            )
            offset += rows

    def matrix(self, parts: list[Linear]) -> int:
        return self.pack([self.tensor(p.weight, (p.rows, p.columns)) for p in parts], table=False)

    def packed_format(self, part: Linear) -> str:
        return target_format(self.tensor(part.weight), self.quantization, table=False)

    def table(self, name: str, rows: int, columns: int) -> int:
        """An embedding or head. The file's may be padded: rows beyond the vocabulary are left out."""
        tensor = self.tensor(name)
        if len(tensor.shape) != 2 or tensor.shape[1] != columns or tensor.shape[0] < rows:
            self.wrong_shape(tensor, (rows, columns))
        return self.pack([tensor.row_range(0, rows)], table=True)

    def pack(self, sources: list[Tensor], *, table: bool) -> int:
        """One matrix of the stacked sources, quantised if that was asked for."""
        first = sources[0]
        name = " ".join(source.name for source in sources)
        format = target_format(first, self.quantization, table=table)
        rows, columns = sum(source.shape[0] for source in sources), first.shape[1]
        if self.kept is not None:
            found = self.kept.matrix(self.program, name, format, rows, columns)
            if found is not None:
                return found
        index = self.pack_anew(sources, table=table)
        if self.kept is not None:
            self.kept.packed(name, index, format, rows, columns)
        return index

    def pack_anew(self, sources: list[Tensor], *, table: bool) -> int:
        parts: list[tuple[str, int, int, Any]] = []
        for source in sources:
            ready = quantize(source, target_format(source, self.quantization, table=table))
            parts.append((ready.format, ready.shape[0], ready.shape[1], ready.data))
        try:
            if len(parts) == 1:
                return self.program.matrix(*parts[0])
            return self.program.matrix_concat(parts)
        except ValueError as error:
            first = sources[0]
            raise UnsupportedModelError(
                f"{first.source}: tensor {first.stored_name!r}: {error}"
            ) from error
        finally:
            for source in sources:
                source.release()

    def bias(self, parts: list[Linear]) -> int:
        """The biases of stacked parts, zeros where one has none."""
        if all(part.bias is None for part in parts):
            return NO_BIAS
        values = [
            np.zeros(part.rows, np.float32)
            if part.bias is None
            else self.tensor(part.bias, (part.rows,)).values()
            for part in parts
        ]
        return self.program.vector(np.concatenate(values))

    # -- shared parts -------------------------------------------------------------------------

    def norm_weight(self, norm: RMSNorm) -> int:
        values = self.tensor(norm.weight, (norm.width,)).values()
        return self.program.vector(values + np.float32(1.0) if norm.plus_one else values)

    def rope_table(self, rope: Rope) -> int:
        if rope not in self.tables:
            frequencies: NDArray[Any] = inverse_frequencies(rope)
            if rope.factors is not None:
                frequencies = frequencies / self.tensor(rope.factors, (rope.dim // 2,)).values()
            vector = self.program.vector(frequencies.astype(np.float32))
            self.tables[rope] = self.program.rope_table(vector, rope.scale)
        return self.tables[rope]

    def buffer(self, name: str, width: int) -> int:
        key = (name, width)
        if key not in self.buffers:
            self.buffers[key] = self.program.buffer(width)
        return self.buffers[key]

    # -- tensors ------------------------------------------------------------------------------

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        tensor = self.checkpoint.tensor(name)
        self.used.add(name)
        if shape is not None and tensor.shape != shape:
            self.wrong_shape(tensor, shape)
        return tensor

    def wrong_shape(self, tensor: Tensor, expected: tuple[int, ...]) -> None:
        raise ModelError(
            f"{tensor.source}: tensor {tensor.stored_name!r} has shape {list(tensor.shape)}, "
            f"the configuration asks for {list(expected)}"
        )

    def refuse_unused(self) -> None:
        """A tensor that nobody asked for is a part of the model that would be missing."""
        ignored = re.compile("|".join(f"(?:{pattern})" for pattern in self.spec.ignored) or "(?!)")
        for name in self.checkpoint.tensors.keys() - self.used:
            tensor = self.checkpoint.tensors[name]
            if not ignored.fullmatch(name):
                raise UnsupportedModelError(
                    f"{tensor.source}: tensor {tensor.stored_name!r} is not a part of "
                    f"{self.spec.architecture}"
                )
