"""Going on with a batch that was taken apart once: the same as a new batch for each step."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from batches import Sequences, sampling
from small_model import SmallModel

from legato import _native as native
from legato.batch import BLOCK_SIZE, Batch

BEST = native.supported_isas()[-1]
STARTS = [3, 16, 33]  # tokens of each sequence before it decodes
STEPS = 20
VOCABULARY = 200


def sequences() -> Sequences:
    """Their tokens are random; those beyond ``STARTS`` count as drawn."""
    source = np.random.default_rng(7)
    tokens = [source.integers(0, VOCABULARY, start + STEPS) for start in STARTS]
    return Sequences(tokens, VOCABULARY, shuffle=3)


def sampled(batch: Batch) -> Batch:
    """Rows are drawn at random, by their own seeds and positions."""
    rows = len(batch.logit_rows)
    return replace(
        batch,
        sampling=sampling(
            rows,
            VOCABULARY,
            temperature=1.0,
            seed=np.arange(rows, dtype=np.uint64),
            draw_position=(batch.positions[batch.logit_rows] + 1).astype(np.uint64),
        ),
    )


def begun(threads: int = 2) -> tuple[Sequences, native.Program, Batch]:
    """Prompts that are computed, and the first batch of decodes, which has run."""
    owners = sequences()
    program = SmallModel().program(owners.blocks, BEST, threads, max_tokens=64)
    program.run(owners.batch(STARTS))
    batch = sampled(owners.batch([1, 1, 1]))
    program.run(batch)
    return owners, program, batch


@pytest.mark.parametrize("threads", [1, 2])
def test_it_is_what_a_new_batch_for_each_step_is(threads: int) -> None:
    owners, program, first = begun(threads)
    expected, logits = [], []
    for _ in range(STEPS - 1):
        batch = sampled(owners.batch([1, 1, 1]))
        expected.append(program.run(batch)[0].tolist())
        logits.append(program.logits())
    owners, program, first = begun(threads)
    decoding = program.decoding(first)
    for step, (tokens, row_logits) in enumerate(zip(expected, logits, strict=True), 1):
        given = [int(t[start + step]) for t, start in zip(owners.tokens, STARTS, strict=True)]
        assert decoding.step(given) == tokens
        assert program.logits().tobytes() == row_logits.tobytes()
    assert first.positions.tolist() == [start + STEPS - 1 for start in STARTS]
    assert first.slots.tolist() == [
        int(table[position // BLOCK_SIZE]) * BLOCK_SIZE + position % BLOCK_SIZE
        for table, position in zip(owners.tables, first.positions.tolist(), strict=True)
    ]


def test_it_holds_the_arrays() -> None:
    _, program, batch = begun()
    other = begun()[2]
    decoding, positions = program.decoding(batch), batch.positions
    before = positions.copy()
    for name in ("token_ids", "positions", "slots", "block_tables", "sampling"):
        setattr(batch, name, getattr(other, name))
    del other, batch
    decoding.step([1, 2, 3])
    assert (positions == before + 1).all()


def test_a_table_without_room_is_refused_and_nothing_changed() -> None:
    _, program, batch = begun()
    decoding = program.decoding(batch)
    left = batch.block_tables.shape[1] * BLOCK_SIZE - 1 - int(batch.positions.max())
    for _ in range(left):
        decoding.step([1, 2, 3])
    before = batch.positions.tolist(), batch.token_ids.tolist()
    with pytest.raises(ValueError, match=r"^block_tables: row 2 has no block for position 64"):
        decoding.step([4, 5, 6])
    assert (batch.positions.tolist(), batch.token_ids.tolist()) == before


def test_tokens_must_be_one_for_each_row_and_of_the_vocabulary() -> None:
    _, program, batch = begun()
    decoding = program.decoding(batch)
    with pytest.raises(ValueError, match="^tokens: has 2 entries, expected 3"):
        decoding.step([1, 2])
    with pytest.raises(ValueError, match="^token_ids: entry 1 is 200"):
        decoding.step([1, VOCABULARY, 2])


FAULTS: list[tuple[str, Callable[[Batch], None]]] = [
    ("positions", lambda b: setattr(b, "positions", b.positions.astype(np.int64))),
    ("slots", lambda b: setattr(b, "slots", b.slots[1:])),
    ("draw_position", lambda b: setattr(b.sampling, "draw_position", np.zeros(2, np.uint64))),
    ("token_ids", lambda b: b.token_ids.setflags(write=False)),
]


@pytest.mark.parametrize(("field", "break_it"), FAULTS)
def test_other_batches_are_refused(field: str, break_it: Callable[[Batch], None]) -> None:
    _, program, batch = begun()
    break_it(batch)
    with pytest.raises(ValueError, match=rf"^{field}:"):
        program.decoding(batch)


def test_a_batch_with_rows_that_nobody_reads_is_refused() -> None:
    owners = sequences()
    program = SmallModel().program(owners.blocks, BEST, max_tokens=64)
    batch = owners.batch(STARTS, logits="last")
    program.run(batch)
    with pytest.raises(ValueError, match="^logit_rows: not every row decodes"):
        program.decoding(batch)


def test_sequences_that_lead_outside_later_are_refused() -> None:
    _, program, batch = begun()
    decoding = program.decoding(batch)
    batch.sequences[1] = 9
    with pytest.raises(ValueError, match="^sequences: entry 1 is 9"):
        decoding.step([1, 2, 3])
