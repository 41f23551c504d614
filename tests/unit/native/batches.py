"""Batches for native tests: rows of sequences whose blocks are handed out in order."""

import numpy as np

from legato.batch import BLOCK_SIZE, Batch, SamplingBatch


def sampling(rows: int, vocabulary: int, **fields) -> SamplingBatch:
    """Greedy rows; ``fields`` replace arrays (or scalars, for all rows)."""
    empty = np.zeros(0, np.int32)
    defaults = {
        "temperature": np.zeros(rows, np.float32),
        "top_k": np.zeros(rows, np.int32),
        "top_p": np.ones(rows, np.float32),
        "min_p": np.zeros(rows, np.float32),
        "repetition_penalty": np.ones(rows, np.float32),
        "presence_penalty": np.zeros(rows, np.float32),
        "frequency_penalty": np.zeros(rows, np.float32),
        "seed": np.zeros(rows, np.uint64),
        "draw_position": np.zeros(rows, np.uint64),
        "forced": np.full(rows, -1, np.int32),
        "num_logprobs": np.full(rows, -1, np.int32),
        "prompt_indptr": np.zeros(rows + 1, np.int32),
        "prompt_ids": empty,
        "output_indptr": np.zeros(rows + 1, np.int32),
        "output_ids": empty,
        "bias_indptr": np.zeros(rows + 1, np.int32),
        "bias_ids": empty,
        "bias_values": np.zeros(0, np.float32),
        "mask_index": np.full(rows, -1, np.int32),
        "fallback_index": np.full(rows, -1, np.int32),
        "masks": np.zeros((0, (vocabulary + 31) // 32), np.uint32),
    }
    for name, value in fields.items():
        old = defaults[name]
        defaults[name] = np.full_like(old, value) if np.isscalar(value) else value
    return SamplingBatch(**defaults)


class Sequences:
    """Token ids of some sequences and how far each has been run; block tables are fixed."""

    def __init__(self, tokens: list[np.ndarray], vocabulary: int, shuffle: int = 0) -> None:
        self.tokens = [np.asarray(t, np.int32) for t in tokens]
        self.done = [0] * len(tokens)
        self.vocabulary = vocabulary
        width = max(-(-len(t) // BLOCK_SIZE) for t in self.tokens)
        blocks = np.arange(len(tokens) * width, dtype=np.int32)
        if shuffle:
            np.random.default_rng(shuffle).shuffle(blocks)
        self.tables = blocks.reshape(len(tokens), width)

    @property
    def blocks(self) -> int:
        return self.tables.size

    def batch(
        self, counts: list[int], *, logits: str | np.ndarray = "all", hash_logits: bool = True
    ) -> Batch:
        """The next ``counts[i]`` tokens of each sequence; ``logits`` of "all" rows, the "last" or some."""
        ids, positions, owners, last = [], [], [], []
        for index, count in enumerate(counts):
            start = self.done[index]
            ids.append(self.tokens[index][start : start + count])
            positions.append(np.arange(start, start + count, dtype=np.int32))
            owners.append(np.full(count, index, np.int32))
            self.done[index] += count
            if count:
                last.append(sum(len(p) for p in positions) - 1)
        position, owner = np.concatenate(positions), np.concatenate(owners)
        slots = self.tables[owner, position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE
        if isinstance(logits, str):
            logits = np.arange(len(position)) if logits == "all" else np.asarray(last)
        rows = logits
        return Batch(
            token_ids=np.concatenate(ids),
            positions=position,
            sequences=owner,
            slots=slots.astype(np.int32),
            block_tables=self.tables,
            block_copies=np.zeros((0, 2), np.int32),
            logit_rows=rows.astype(np.int32),
            sampling=sampling(len(rows), self.vocabulary),
            hash_logits=hash_logits,
        )
