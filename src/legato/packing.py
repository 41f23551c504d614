"""Packer: turns the parts of a step into the flat arrays of a ``Batch``.

What does not change while a sequence runs (sampling parameters, block table) stays in arrays with a
row for each lane, and is gathered; Python loops touch each sequence a few times a step, never each
token. While the same sequences decode, the last batch is moved on by one token in place, by the
native core where nothing else is new: between two steps the processor's caches are full of weights,
so what counts is how little is touched.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from legato.batch import BLOCK_SIZE, F32, I32, U32, U64, Batch, SamplingBatch
from legato.cache.kv import KVCache
from legato.constraint.constraint import Rules
from legato.constraint.masks import MaskPlan
from legato.constraint.ruling import Ruled
from legato.plan import Part
from legato.sequence import NO_IDS, NO_VALUES, Sequence

FREE = Rules([], [], None)
TABLE_STEP = 4
"""Block tables have room for a multiple of so many blocks."""


class LogitRows(NamedTuple):
    """The rows that want logits, in ascending order."""

    rows: I32  # of the batch
    owners: list[int]  # the part each belongs to
    drafted: list[int]  # how many tokens of the part's draft stand before the row's own
    forced: I32  # the token that it must take; -1: sample


class Packer:
    """A batch that it returns is good until the next one is packed."""

    def __init__(self, cache: KVCache, vocab_size: int, max_rows: int) -> None:
        lanes = len(cache.tables)
        self.vocab_size = vocab_size
        self._cache = cache
        self._tables = cache.tables
        self._seated: list[tuple[int, ...] | None] = [None] * lanes
        self._reals: F32 = np.zeros((6, lanes), np.float32)  # in the order of SamplingBatch
        self._top_k: I32 = np.zeros(lanes, np.int32)
        self._num_logprobs: I32 = np.zeros(lanes, np.int32)
        self._seeds: U64 = np.zeros(lanes, np.uint64)
        self._nothing: I32 = np.zeros(max_rows + 1, np.int32)  # indptr of empty rows
        self._mask_words = -(-vocab_size // 32)
        self._no_masks: U32 = np.zeros((0, self._mask_words), np.uint32)
        self._free: I32 = np.full(max_rows, -1, np.int32)  # rows without a mask
        self._last: Batch | None = None
        self._decoding: list[Sequence] = []  # of the last batch, if it was nothing but decodes
        self._lanes: NDArray[np.intp] = np.zeros(0, np.intp)  # theirs
        self._computed = 0  # of the last of them, when it decodes its next token
        self._parts: list[Part] = []  # of the last batch
        self._claims = self._changes = -1  # the cache's counts at that time
        self._is_penalised = False  # any of them
        self._is_biased = False
        self._is_constrained = False
        self._keeps_masks = True  # until they are drawn again
        self.ruled: list[Ruled] = []  # rows of the last batch that grammars rule

    def forget(self) -> None:
        """Sequences of the last batch may have lost tokens: the next one does not go on from it."""
        self._last = None

    def pack(self, parts: list[Part]) -> Batch:
        """The batch of these parts, in their order."""
        sequences = [part.sequence for part in parts]
        self._parts = parts
        self.ruled = []
        decodes = all(part.samples and part.num_tokens == 1 for part in parts)
        if decodes and self._last is not None and self._goes_on(sequences):
            return self._move_on(self._last, parts, sequences)
        self._last = self._pack(parts, sequences)
        self._decoding = sequences if decodes and not len(self._last.block_copies) else []
        self._claims, self._changes = self._cache.num_claims, self._cache.num_changes
        self._computed = int(self._last.positions[-1]) + 1
        return self._last

    def follow(self, parts: list[Part]) -> Batch | None:
        """The last batch, if these parts are its own, and one token of each is all that is new and all that
        is wanted: it is for ``Decoding.step`` to move it on. The block tables are as they must be then,
        and grammars rule the same rows."""
        batch = self._last
        if (
            batch is None
            or parts is not self._parts
            or not self._decoding
            or self._is_penalised
            or self._is_biased
            or not self._keeps_masks
            or not self._goes_on(self._decoding)
            or not all(part.is_plain for part in parts)
        ):
            return None
        self._computed += 1
        return self._with_tables(batch)

    def _goes_on(self, sequences: list[Sequence]) -> bool:
        """Whether the last step's sequences, in their lanes, each have one more token."""
        return (
            self._claims == self._cache.num_claims
            and self._decoding == sequences
            and self._computed == sequences[-1].num_computed  # it has not failed
        )

    def _move_on(self, batch: Batch, parts: list[Part], sequences: list[Sequence]) -> Batch:
        batch = self._with_tables(batch)
        batch.token_ids[:] = [sequence.last_token for sequence in sequences]
        self._computed += 1
        batch.positions += 1
        batch.slots[:] = self._slots(self._lanes, batch.positions)
        sampling = batch.sampling
        sampling.draw_position += 1
        if self._is_penalised:
            sampling.output_indptr, sampling.output_ids = self._outputs(sequences, [], None)
        if self._is_biased:
            bias = self._bias(sequences, [0] * len(sequences))
            sampling.bias_indptr, sampling.bias_ids, sampling.bias_values = bias
        if self._is_constrained:
            sampling.forced = np.full(len(parts), -1, np.int32)
            self._set_masks(sampling, parts)
        return batch

    def _with_tables(self, batch: Batch) -> Batch:
        """The batch with the block tables as they are now; another one if they need more room."""
        if self._changes != self._cache.num_changes:
            self._changes = self._cache.num_changes
            tables = self._block_tables(self._lanes, self._decoding)
            if tables.shape == batch.block_tables.shape:
                batch.block_tables[:] = tables
            else:
                self._last = batch = replace(batch, block_tables=tables)
        return batch

    def _slots(self, lanes: NDArray[np.intp], positions: I32) -> I32:
        """Of rows in these lanes."""
        blocks = self._tables[lanes, positions // BLOCK_SIZE]
        return blocks * BLOCK_SIZE + positions % BLOCK_SIZE

    def _block_tables(self, lanes: NDArray[np.intp], sequences: list[Sequence]) -> I32:
        most = max(len(sequence.hold.blocks) for sequence in sequences)
        width = -(-most // TABLE_STEP) * TABLE_STEP  # the batch is moved on: they will grow
        return np.ascontiguousarray(self._tables[lanes, :width])

    def _pack(self, parts: list[Part], sequences: list[Sequence]) -> Batch:
        self._lanes = lanes = np.array([self._seat(sequence) for sequence in sequences], np.intp)
        token_ids, owners, positions = self._tokens(parts)
        copies = [s.hold.copy for s in sequences if s.hold.copy is not None]
        rows = self._logit_rows(parts)
        return Batch(
            token_ids=token_ids,
            positions=positions,
            sequences=owners,
            slots=self._slots(lanes[owners], positions),
            block_tables=self._block_tables(lanes, sequences),
            block_copies=np.array(copies, np.int32).reshape(-1, 2),
            logit_rows=rows.rows,
            sampling=self._sampling(parts, lanes, rows),
        )

    def _seat(self, sequence: Sequence) -> int:
        """The sequence's lane, with its parameters in place."""
        lane = sequence.hold.lane
        if self._seated[lane] != sequence.place:
            params = sequence.params
            self._seated[lane] = sequence.place
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
        if all(part.num_tokens == 1 and part.samples for part in parts):
            return (
                np.array([part.sequence.last_token for part in parts], np.int32),
                rows,
                starts,
            )
        counts = np.array([part.num_tokens for part in parts], np.int32)
        ids: list[I32 | tuple[int, ...]] = []
        for part in parts:
            ids.append(part.sequence.ids[part.sequence.num_computed :][: part.count])
            if part.draft:
                ids.append(part.draft)
        within = np.arange(counts.sum(), dtype=np.int32)
        first_rows = np.cumsum(counts, dtype=np.int32) - counts
        positions = within + np.repeat(starts - first_rows, counts)
        return np.concatenate(ids, dtype=np.int32), np.repeat(rows, counts), positions

    def _logit_rows(self, parts: list[Part]) -> LogitRows:
        ends = list(accumulate(part.num_tokens for part in parts))
        if not any(part.num_forced or part.draft for part in parts):
            owners = [index for index, part in enumerate(parts) if part.samples]
            rows = np.array([ends[index] - 1 for index in owners], np.int32)
            return LogitRows(rows, owners, [0] * len(owners), np.full(len(owners), -1, np.int32))
        found = LogitRows(NO_IDS, [], [], NO_IDS)
        rows_of: list[int] = []
        forced: list[int] = []
        for index, (part, end) in enumerate(zip(parts, ends, strict=True)):
            if part.num_forced:
                first = part.sequence.num_computed + part.first_forced
                row = end - part.num_tokens + part.first_forced
                rows_of += range(row, row + part.num_forced)
                forced += part.sequence.ids[first + 1 : first + 1 + part.num_forced].tolist()
                found.drafted.extend([0] * part.num_forced)
            if part.samples:
                rows_of += range(end - len(part.draft) - 1, end)
                forced += [-1] * (len(part.draft) + 1)
                found.drafted.extend(range(len(part.draft) + 1))
            found.owners.extend([index] * part.num_rows)
        return found._replace(rows=np.array(rows_of, np.int32), forced=np.array(forced, np.int32))

    def _sampling(
        self, parts: list[Part], lanes: NDArray[np.intp], rows: LogitRows
    ) -> SamplingBatch:
        chosen = [parts[owner].sequence for owner in rows.owners]
        lane = lanes[rows.owners]
        reals = self._reals.take(lane, axis=1)
        num_logprobs = self._num_logprobs[lane]
        for row in np.flatnonzero(rows.forced >= 0).tolist():
            num_logprobs[row] = chosen[row].params.prompt_logprobs or 0
        bias_indptr, bias_ids, bias_values = self._bias(chosen, rows.drafted)
        self._is_penalised = any(sequence.is_penalised for sequence in chosen)
        prompts = [s.penalised_prompt for s in chosen] if self._is_penalised else []
        output_indptr, output_ids = self._outputs(chosen, parts, rows)
        known = [s.num_tokens + ahead for s, ahead in zip(chosen, rows.drafted, strict=True)]
        sampling = SamplingBatch(
            temperature=reals[0],
            top_k=self._top_k[lane],
            top_p=reals[1],
            min_p=reals[2],
            repetition_penalty=reals[3],
            presence_penalty=reals[4],
            frequency_penalty=reals[5],
            seed=self._seeds[lane],
            draw_position=np.array(known, np.uint64),
            forced=rows.forced,
            num_logprobs=num_logprobs,
            prompt_indptr=self._indptr(prompts, len(chosen)),
            prompt_ids=np.concatenate(prompts) if prompts else NO_IDS,
            output_indptr=output_indptr,
            output_ids=output_ids,
            bias_indptr=bias_indptr,
            bias_ids=bias_ids,
            bias_values=bias_values,
            mask_index=NO_IDS,
            fallback_index=NO_IDS,
            masks=self._no_masks,
        )
        self._set_masks(sampling, parts)
        return sampling

    def _indptr(self, rows: list[I32], num_rows: int) -> I32:
        """[R + 1] where each row's part of the concatenation begins."""
        if not rows:
            return self._nothing[: num_rows + 1]
        return np.cumsum([0, *map(len, rows)], dtype=np.int32)

    def _outputs(
        self, chosen: list[Sequence], parts: list[Part], rows: LogitRows | None
    ) -> tuple[I32, I32]:
        """What counts as output for each row's penalties: tokens drafted before it too."""
        if not self._is_penalised:
            return self._nothing[: len(chosen) + 1], NO_IDS
        outputs = [s.output_ids if s.is_penalised else NO_IDS for s in chosen]
        if rows is not None and any(rows.drafted):
            for row, ahead in enumerate(rows.drafted):
                if ahead and chosen[row].is_penalised:
                    drafted = parts[rows.owners[row]].draft[:ahead]
                    outputs[row] = np.concatenate([outputs[row], drafted], dtype=np.int32)
        return self._indptr(outputs, len(chosen)), np.concatenate(outputs)

    def _bias(self, chosen: list[Sequence], drafted: list[int]) -> tuple[I32, I32, F32]:
        self._is_biased = any(sequence.is_biased for sequence in chosen)
        if not self._is_biased:
            return self._nothing[: len(chosen) + 1], NO_IDS, NO_VALUES
        biases = [
            s.bias_after(ahead) if s.is_biased else (NO_IDS, NO_VALUES)
            for s, ahead in zip(chosen, drafted, strict=True)
        ]
        ids = [bias[0] for bias in biases]
        return (
            self._indptr(ids, len(chosen)),
            np.concatenate(ids),
            np.concatenate([bias[1] for bias in biases]),
        )

    def _set_masks(self, sampling: SamplingBatch, parts: list[Part]) -> None:
        """The rows' masks, and the tokens that constraints force."""
        self._is_constrained = any(part.sequence.constraint is not None for part in parts)
        ruled = _ruled_alone(parts)
        self._keeps_masks = ruled is not None or not self._is_constrained
        if ruled is not None:
            self.ruled = ruled
            free = self._free[: len(sampling.forced)]
            sampling.mask_index = sampling.fallback_index = free
            sampling.masks = self._no_masks
            return
        plan = MaskPlan(self._mask_words)
        for part in parts:
            sequence = part.sequence
            for _ in range(part.num_forced):
                plan.add_free()
            if not part.samples:
                continue
            among = sequence.mask(self.vocab_size) if sequence.is_masked else None
            rules = FREE if sequence.constraint is None else sequence.constraint.rules(part.draft)
            first = len(plan.index)
            sampling.forced[first : first + len(rules.forced)] = rules.forced
            plan.add_rules(rules, part.draft, among)
        sampling.mask_index, sampling.fallback_index, sampling.masks = plan.build()
        self.ruled = plan.ruled


def _ruled_alone(parts: list[Part]) -> list[Ruled] | None:
    """The rows that a grammar rules, if nothing but grammars says anything about any row."""
    ruled, row = [], 0
    for part in parts:
        sequence, rows = part.sequence, part.num_rows
        if sequence.is_masked:
            return None
        if sequence.constraint is not None:
            rules = sequence.constraint.grammar_alone
            if rules is None or rows != 1 or not part.samples:
                return None
            ruled.append(Ruled(rules, row, (), None))
        row += rows
    return ruled
