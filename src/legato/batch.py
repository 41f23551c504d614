"""The flat arrays of one step: the contract between Python and the native core.

T rows (tokens of this step) of S sequences; R of the rows want logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

I32 = NDArray[np.int32]
F32 = NDArray[np.float32]
U64 = NDArray[np.uint64]
U32 = NDArray[np.uint32]

BLOCK_SIZE = 16
"""Positions in a KV block: the kernels' number of lanes, so that K is stored with positions in lanes."""


@dataclass(slots=True)
class SamplingBatch:
    """How each of the R logit rows becomes a token.

    A row with ``forced[r] >= 0`` is not sampled: that token is taken (and its log-probability
    reported, if asked for): this is how prompt log-probabilities are computed.
    A row with a mask and a fallback has a soft mask: it is drawn as if it had none, by the same random
    number, and if the mask does not allow that token, drawn again under the fallback, by another
    random number. So a sequence that keeps to its masks by itself is the one without them.
    CSR arrays: row r owns ``ids[indptr[r]:indptr[r + 1]]``.
    """

    temperature: F32  # [R]; 0 is greedy (lowest id wins ties)
    top_k: I32  # [R]; 0 is off
    top_p: F32  # [R]
    min_p: F32  # [R]
    repetition_penalty: F32  # [R]
    presence_penalty: F32  # [R]
    frequency_penalty: F32  # [R]
    seed: U64  # [R]
    # [R] the token's absolute position in its sequence; with the seed, the key of the row's random
    # numbers
    draw_position: U64
    forced: I32  # [R]; -1: sample
    num_logprobs: I32  # [R]; -1: none, 0: chosen token only, k: and the k best
    prompt_indptr: I32  # [R + 1] prompt tokens of rows with a repetition penalty
    prompt_ids: I32
    output_indptr: I32  # [R + 1] output tokens of rows with any penalty
    output_ids: I32
    bias_indptr: I32  # [R + 1] added to the logits; -inf forbids
    bias_ids: I32
    bias_values: F32
    mask_index: I32  # [R]; row of ``masks``, -1: all tokens are allowed
    fallback_index: I32  # [R]; row of ``masks`` of a soft mask, -1: the mask holds for every draw
    masks: U32  # [M, ceil(vocab / 32)]; bit t % 32 of word t // 32 allows token t


@dataclass(slots=True)
class Batch:
    """One step. Rows of one sequence are consecutive, their positions ascending."""

    token_ids: I32  # [T]
    positions: I32  # [T] absolute; the row attends to positions 0..itself (within the window)
    sequences: I32  # [T] row of block_tables
    slots: I32  # [T] block * BLOCK_SIZE + offset: where the row's K and V go
    block_tables: I32  # [S, max blocks], C-contiguous; unused entries are 0
    block_copies: I32  # [C, 2] (source, destination), done in order before anything else
    logit_rows: I32  # [R] ascending rows of T that want logits
    sampling: SamplingBatch
    hash_logits: bool = False  # also return a 64-bit hash of each row's logit bits (tests)


@dataclass(slots=True)
class StepResult:
    """What came back, for each of the R logit rows."""

    token_ids: I32  # [R]; -1 where the logits are not numbers, or no token was allowed
    logprobs: F32  # [R] of the chosen token; NaN where not asked for
    ranks: I32  # [R] 1 = most likely; 0 where not asked for
    top_ids: I32  # [R, max(num_logprobs)]; -1 beyond a row's own number
    top_logprobs: F32  # the same shape
    hashes: U64  # [R], or empty
