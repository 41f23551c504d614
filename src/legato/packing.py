"""Packer: turns the parts of a step into the flat arrays of a ``Batch``.

What does not change while a sequence runs (sampling parameters, block table) stays in arrays with a
row for each lane, and is gathered; Python loops touch each sequence a few times a step, never each
token.
"""

from __future__ import annotations

from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from legato.batch import BLOCK_SIZE, F32, I32, U32, U64, Batch, SamplingBatch
from legato.scheduler import Part
from legato.sequence import NO_IDS, NO_VALUES, Sequence


class Packer:
    """``tables``: the block tables, a row for each lane (``KVCache.tables``)."""

    def __init__(self, tables: I32, vocab_size: int, max_rows: int) -> None:
        lanes = len(tables)
        self.vocab_size = vocab_size
        self._tables = tables
        self._seated: list[tuple[int, ...] | None] = [None] * lanes
        self._reals: F32 = np.zeros((6, lanes), np.float32)  # in the order of SamplingBatch
        self._top_k: I32 = np.zeros(lanes, np.int32)
        self._num_logprobs: I32 = np.zeros(lanes, np.int32)
        self._seeds: U64 = np.zeros(lanes, np.uint64)
        self._nothing: I32 = np.zeros(max_rows + 1, np.int32)  # indptr of empty rows
        self._no_masks: U32 = np.zeros((0, -(-vocab_size // 32)), np.uint32)

    def pack(self, parts: list[Part]) -> Batch:
        """The batch of these parts, in their order."""
        sequences = [part.sequence for part in parts]
        lanes = np.array([self._seat(sequence) for sequence in sequences], np.intp)
        token_ids, rows, positions = self._tokens(parts)
        blocks = self._tables[lanes[rows], positions // BLOCK_SIZE]
        width = max(len(sequence.hold.blocks) for sequence in sequences)
        copies = [s.hold.copy for s in sequences if s.hold.copy is not None]
        logit_rows, owners, forced = self._logit_rows(parts)
        return Batch(
            token_ids=token_ids,
            positions=positions,
            sequences=rows,
            slots=blocks * BLOCK_SIZE + positions % BLOCK_SIZE,
            block_tables=np.ascontiguousarray(self._tables[lanes, :width]),
            block_copies=np.array(copies, np.int32).reshape(-1, 2),
            logit_rows=logit_rows,
            sampling=self._sampling(sequences, lanes, owners, forced),
        )

    def _seat(self, sequence: Sequence) -> int:
        """The sequence's lane, with its parameters in place."""
        lane = sequence.hold.lane
        if self._seated[lane] != sequence.key:
            params = sequence.params
            self._seated[lane] = sequence.key
            self._reals[:, lane] = (
                params.temperature,
                params.top_p,
                params.min_p,
                params.repetition_penalty,
                params.presence_penalty,
                params.frequency_penalty,
            )
            self._top_k[lane] = max(params.top_k, 0)
            self._num_logprobs[lane] = -1 if params.logprobs is None else params.logprobs
            self._seeds[lane] = sequence.seed
        return lane

    def _tokens(self, parts: list[Part]) -> tuple[I32, I32, I32]:
        """Token ids, sequences and positions of all rows."""
        starts = np.array([part.sequence.num_computed for part in parts], np.int32)
        rows: I32 = np.arange(len(parts), dtype=np.int32)
        if all(part.count == 1 and part.samples for part in parts):
            return (
                np.array([part.sequence.last_token for part in parts], np.int32),
                rows,
                starts,
            )
        counts = np.array([part.count for part in parts], np.int32)
        ids = [p.sequence.ids[p.sequence.num_computed :][: p.count] for p in parts]
        within = np.arange(counts.sum(), dtype=np.int32)
        first_rows = np.cumsum(counts, dtype=np.int32) - counts
        positions = within + np.repeat(starts - first_rows, counts)
        return np.concatenate(ids), np.repeat(rows, counts), positions

    def _logit_rows(self, parts: list[Part]) -> tuple[I32, list[int], I32]:
        """Rows that want logits, the part each belongs to, and its forced token (-1: sample)."""
        ends = list(accumulate(part.count for part in parts))
        if not any(part.num_forced for part in parts):
            owners = [index for index, part in enumerate(parts) if part.samples]
            rows = np.array([ends[index] - 1 for index in owners], np.int32)
            return rows, owners, np.full(len(owners), -1, np.int32)
        wanted: list[int] = []
        owners = []
        forced: list[int] = []
        for index, (part, end) in enumerate(zip(parts, ends, strict=True)):
            if part.num_forced:
                first = part.sequence.num_computed + part.first_forced
                row = end - part.count + part.first_forced
                wanted += range(row, row + part.num_forced)
                forced += part.sequence.ids[first + 1 : first + 1 + part.num_forced].tolist()
            if part.samples:
                wanted.append(end - 1)
                forced.append(-1)
            owners += [index] * part.num_rows
        return np.array(wanted, np.int32), owners, np.array(forced, np.int32)

    def _sampling(
        self,
        sequences: list[Sequence],
        lanes: NDArray[np.intp],
        owners: list[int],
        forced: I32,
    ) -> SamplingBatch:
        chosen = [sequences[owner] for owner in owners]
        lane = lanes[owners]
        reals = self._reals.take(lane, axis=1)
        num_logprobs = self._num_logprobs[lane]
        for row in np.flatnonzero(forced >= 0).tolist():
            num_logprobs[row] = chosen[row].params.prompt_logprobs or 0
        bias_indptr, bias_ids, bias_values = self._bias(chosen)
        mask_index, masks = self._masks(chosen)
        penalised = any(sequence.is_penalised for sequence in chosen)
        prompts = [s.penalised_prompt for s in chosen] if penalised else []
        outputs = [s.output_ids if s.is_penalised else NO_IDS for s in chosen] if penalised else []
        return SamplingBatch(
            temperature=reals[0],
            top_k=self._top_k[lane],
            top_p=reals[1],
            min_p=reals[2],
            repetition_penalty=reals[3],
            presence_penalty=reals[4],
            frequency_penalty=reals[5],
            seed=self._seeds[lane],
            output_position=np.array([s.num_output for s in chosen], np.uint64),
            forced=forced,
            num_logprobs=num_logprobs,
            prompt_indptr=self._indptr(prompts, len(chosen)),
            prompt_ids=np.concatenate(prompts) if prompts else NO_IDS,
            output_indptr=self._indptr(outputs, len(chosen)),
            output_ids=np.concatenate(outputs) if outputs else NO_IDS,
            bias_indptr=bias_indptr,
            bias_ids=bias_ids,
            bias_values=bias_values,
            mask_index=mask_index,
            masks=masks,
        )

    def _indptr(self, rows: list[I32], num_rows: int) -> I32:
        """[R + 1] where each row's part of the concatenation begins."""
        if not rows:
            return self._nothing[: num_rows + 1]
        return np.cumsum([0, *map(len, rows)], dtype=np.int32)

    def _bias(self, chosen: list[Sequence]) -> tuple[I32, I32, F32]:
        if not any(sequence.is_biased for sequence in chosen):
            return self._nothing[: len(chosen) + 1], NO_IDS, NO_VALUES
        biases = [s.bias if s.is_biased else (NO_IDS, NO_VALUES) for s in chosen]
        ids = [bias[0] for bias in biases]
        return (
            self._indptr(ids, len(chosen)),
            np.concatenate(ids),
            np.concatenate([bias[1] for bias in biases]),
        )

    def _masks(self, chosen: list[Sequence]) -> tuple[I32, U32]:
        index: I32 = np.full(len(chosen), -1, np.int32)
        masked = [row for row, sequence in enumerate(chosen) if sequence.is_masked]
        if not masked:
            return index, self._no_masks
        index[masked] = np.arange(len(masked), dtype=np.int32)
        return index, np.stack([chosen[row].mask(self.vocab_size) for row in masked])
