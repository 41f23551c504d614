"""The native core, as Python sees it. All activations are float32 ``[tokens, width]`` buffers.

A ``Program`` is built once (``models/lower.py``), then ``run`` once a step (``runner.py``).
Every method raises ``ValueError`` naming the argument when shapes, ids or dtypes do not fit;
``run`` checks every index (token id, slot, block, row) before it touches memory.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from legato.batch import Batch

FORMATS: tuple[str, ...]
KV_GROUP: int  # blocks that lie together in the pool's memory
"""F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q4_K Q5_K Q6_K: names and bytes are GGUF's."""

def supported_isas() -> list[str]:
    """Instruction sets this CPU has, worst first, of: scalar avx2 avx512 avx512_vnni avx512_bf16."""

def barrier_ns() -> float:
    """What two threads take to meet: some 35 where their processors share a cache, 170 where not.
    Virtual machines are moved between the two while they run."""

def checksum(data: Any) -> int:
    """64 bits of a C-contiguous buffer's bytes: against damage, not against adversaries."""

class PackedWeights:
    """A part of a file, in memory of large pages. RuntimeError if the file does not have it."""

    def __init__(self, path: str, offset: int, bytes: int, threads: int) -> None: ...
    def view(self) -> NDArray[np.uint8]:
        """All of it, read-only."""

class Program:
    def __init__(
        self,
        *,
        isa: str,
        threads: int,
        max_tokens: int,
        max_logit_rows: int,
        beside: Program | None = None,
    ) -> None:
        """``isa`` must be in ``supported_isas()``. ``max_tokens``: most rows T of a batch.
        ``beside``: a program whose threads run this one too, in turn with it; they are as many as it has."""
    isa: str
    threads: int

    # -- data -----------------------------------------------------------------------------------
    def buffer(self, width: int) -> int:
        """An activation buffer float32 [max_tokens, width]; memory is touched only when used."""
    def vector(self, values: NDArray[np.float32]) -> int:
        """A constant (norm weight, bias, inverse frequencies); copied."""
    def matrix(self, format: str, rows: int, columns: int, data: Any) -> int:
        """Packs ``rows`` outputs x ``columns`` inputs from ``data``: a C-contiguous buffer (uint8 or
        the element type) of exactly the checkpoint's bytes, row-major. The buffer may be released afterwards.
        ``columns`` must be a multiple of the format's block (1, 32 or 256). Any ``rows`` (padded inside)."""
    def matrix_concat(self, parts: list[tuple[str, int, int, Any]]) -> int:
        """Stacks parts of ONE format along the rows (e.g. q, k, v) into one matrix."""
    def packed_matrix(
        self, weights: PackedWeights, format: str, rows: int, columns: int, offset: int
    ) -> int:
        """A matrix that lies packed at ``offset`` (a multiple of 64) of ``weights``, which it keeps.
        Its bytes are what ``packed`` gave for the same matrix, in a program of the same build."""
    def packed(self, matrix: int) -> NDArray[np.uint8]:
        """The packed bytes of a matrix, read-only."""
    def rope_table(self, inverse_frequencies: int, scale: float) -> int:
        """cos/sin of position * inverse_frequency, times ``scale``; made once a step for its rows.
        ``inverse_frequencies``: a vector of rotary_dim / 2."""
    def kv_cache(
        self, *, layers: int, blocks: int, kv_heads: int, head_dim: int, dtype: str
    ) -> None:
        """Reserves the pool; dtype: float16 | bfloat16 | float32 | int8. Pages are touched when written, and
        16 MB ahead while the threads have nothing to do: the first touch would cost a prompt's step time.
        May be called once, before the first ``run`` and independent of the order of operators."""
    def kv_block_bytes(self) -> int:
        """Bytes of a block: all layers' keys and values. ValueError before ``kv_cache``, as in the next two."""
    def read_kv_block(self, block: int) -> bytes:
        """Between steps only."""
    def write_kv_block(self, block: int, data: bytes | NDArray[np.uint8]) -> None:
        """Between steps only. ValueError if ``data`` has not ``kv_block_bytes`` bytes."""
    def num_matrices(self) -> int: ...
    def weight_bytes(self) -> int: ...
    def kv_bytes_reserved(self) -> int: ...

    # -- operators, executed in the order of these calls; in and out are buffers ---------------------
    def embed(self, table: int, out: int, scale: float = 1.0) -> None: ...
    def rms_norm(self, x: int, weight: int, out: int, eps: float) -> None:
        """out = x / sqrt(mean(x^2) + eps) * weight; ``out`` may be ``x``."""
    def head_norm(
        self, x: int, weight: int, eps: float, *, offset: int, heads: int, head_dim: int
    ) -> None:
        """RMS norm of each head, in place, on columns [offset, offset + heads * head_dim)."""
    def linear(
        self,
        x: int,
        matrix: int,
        out: int,
        *,
        bias: int = -1,
        accumulate: bool = False,
        out_offset: int = 0,
        read_outputs: int = 0,
    ) -> None:
        """out[:, out_offset : out_offset + rows] (+)= x @ matrix.T + bias. With ``accumulate`` the old
        value of ``out`` is added last (the residual connection). The other columns stay as they are
        (q, k and v of different formats share a buffer, each with its own ``linear``).
        The first ``read_outputs`` are needed of the rows only that a ``gather`` will keep."""
    def gather(self, buffers: list[int]) -> None:
        """From here on only the rows that want logits go on, moved up in these buffers, the only ones whose
        contents are still needed; a step with few others keeps them all. Once, behind the last ``embed``,
        ``rope`` and ``kv_write``."""
    def rope(
        self,
        x: int,
        table: int,
        *,
        offset: int,
        heads: int,
        head_dim: int,
        rotary_dim: int,
        interleaved: bool,
    ) -> None:
        """In place. interleaved: pairs (0, 1), (2, 3) ... as in GGUF's permuted llama weights;
        else (i, i + rotary_dim / 2) as in transformers."""
    def kv_write(self, layer: int, k: int, k_offset: int, v: int, v_offset: int) -> None:
        """Stores columns [offset, offset + kv_heads * head_dim) of buffers k and v into the slots."""
    def attention(
        self,
        layer: int,
        q: int,
        q_offset: int,
        out: int,
        *,
        heads: int,
        scale: float,
        window: int = 0,
        softcap: float = 0.0,
    ) -> None:
        """Causal; ``window`` > 0: a row at p sees positions p - window + 1 .. p."""
    def gated(self, x: int, gate_offset: int, up_offset: int, out: int, activation: str) -> None:
        """out = act(x[:, gate]) * x[:, up], width of ``out``; silu | gelu_tanh | gelu."""
    def add(self, x: int, y: int) -> None:
        """x += y."""
    def head(
        self,
        x: int,
        norm_weight: int,
        eps: float,
        matrix: int,
        *,
        softcap: float = 0.0,
        scale: float = 1.0,
        bias: int = -1,
    ) -> None:
        """The last operator: norm of the rows that want logits, then logits [R, vocab], then sampling."""

    def run(self, batch: Batch) -> tuple[NDArray[Any], ...]:
        """One step, without the GIL. Returns the fields of ``StepResult`` in order."""
    def redraw(self, batch: Batch, rows: NDArray[np.int32]) -> tuple[NDArray[Any], ...]:
        """Draws logit rows of the last step again, whose tokens the masks that its ``batch`` has now do
        not allow: the second draw of their soft masks. The result has the shapes of ``run``'s; rows that
        were not asked for are -1."""
    def decoding(self, batch: Batch) -> Decoding:
        """To go on with a batch that has run, in which every row is the newest token of a sequence and wants
        logits. ValueError if it is not such a batch."""
    def logits(self) -> NDArray[np.float32]:
        """Copy of the last step's raw logits [R, vocab] (tests, parity)."""
    def activation(self, buffer: int, rows: int) -> NDArray[np.float32]:
        """Copy of a buffer after the last step (tests)."""
    def profile(self) -> dict[str, float]:
        """Seconds that the first thread spent in each kind of operator since the last call; "wait X" is its
        time at barriers after X. The first call switches the measurement on and returns {}."""

class Decoding:
    """The arrays of a batch, taken apart once."""

    def step(self, tokens: list[int]) -> list[int]:
        """Moves them on by one token, in place (``token_ids``, ``positions``, ``slots``, ``draw_position``), runs
        the step without the GIL, and returns its tokens as ``run`` would; -1 as there. ``tokens``: of each
        row, the one that was drawn. ValueError, with nothing changed, if a block table has no room for one."""
