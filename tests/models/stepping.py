"""Runs a loaded model without the engine: one sequence, its blocks in a row, greedy."""

from __future__ import annotations

import numpy as np

from legato.batch import BLOCK_SIZE, Batch, SamplingBatch
from legato.models.loading import LoadedModel


def ints(values: object) -> np.ndarray:
    return np.asarray(values, np.int32)


def greedy(rows: int, vocab: int) -> SamplingBatch:
    """Sampling parameters that take the most likely token of each row."""

    def floats(value: float) -> np.ndarray:
        return np.full(rows, value, np.float32)

    empty, none = ints([]), ints([0] * (rows + 1))
    return SamplingBatch(
        temperature=floats(0),
        top_k=ints([0] * rows),
        top_p=floats(1),
        min_p=floats(0),
        repetition_penalty=floats(1),
        presence_penalty=floats(0),
        frequency_penalty=floats(0),
        seed=np.zeros(rows, np.uint64),
        draw_position=np.zeros(rows, np.uint64),
        forced=ints([-1] * rows),
        num_logprobs=ints([-1] * rows),
        prompt_indptr=none,
        prompt_ids=empty,
        output_indptr=none,
        output_ids=empty,
        bias_indptr=none,
        bias_ids=empty,
        bias_values=np.zeros(0, np.float32),
        mask_index=ints([-1] * rows),
        fallback_index=ints([-1] * rows),
        masks=np.zeros((0, (vocab + 31) // 32), np.uint32),
    )


class Stepper:
    """Feeds tokens one chunk after another."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.position = 0

    def feed(self, tokens: list[int]) -> np.ndarray:
        """Logits [tokens, vocab] of the chunk."""
        count, begin = len(tokens), self.position
        self.position += count
        blocks = -(-self.position // BLOCK_SIZE)
        positions = ints(range(begin, begin + count))
        self.model.program.run(
            Batch(
                token_ids=ints(tokens),
                positions=positions,
                sequences=ints([0] * count),
                slots=positions.copy(),
                block_tables=ints(range(blocks)).reshape(1, blocks),
                block_copies=np.zeros((0, 2), np.int32),
                logit_rows=ints(range(count)),
                sampling=greedy(count, self.model.info.vocab_size),
            )
        )
        return self.model.program.logits()

    def continue_greedily(self, logits: np.ndarray, count: int) -> list[int]:
        """``count`` tokens after the chunk whose logits are given."""
        tokens = [int(logits[-1].argmax())]
        while len(tokens) < count:
            tokens.append(int(self.feed(tokens[-1:])[-1].argmax()))
        return tokens
