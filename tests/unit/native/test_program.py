"""Whole programs: numbers against double precision, bits against themselves."""

import numpy as np
import pytest
from batches import Sequences
from small_model import SmallModel

from legato import _native as native

ISAS = native.supported_isas()
BEST = ISAS[-1]


def tokens(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, count)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("interleaved", "window"), [(False, 0), (True, 0), (False, 7)])
def test_logits_are_those_of_double_precision(isa: str, interleaved: bool, window: int) -> None:
    model = SmallModel(interleaved=interleaved, window=window)
    ids = tokens(40)
    sequences = Sequences([ids], 200, shuffle=3)
    program = model.program(sequences.blocks, isa)
    result = program.run(sequences.batch([40]))
    expected = model.logits(ids)
    # float32 sums of at most 96 products of numbers near 1, two layers: far below 1e-5 of the largest logit
    assert np.abs(program.logits() - expected).max() < 1e-5 * np.abs(expected).max()
    assert (result[0] == expected.argmax(1)).all()


def hashes_in_steps(isa: str, threads: int, steps: list[list[int]], ids: list[np.ndarray]) -> list:
    """Hash of every position's logits of each sequence, computed in the given steps."""
    sequences = Sequences(ids, 200, shuffle=5)
    most = max(sum(counts) for counts in steps)
    program = SmallModel().program(sequences.blocks, isa, threads, max_tokens=most)
    found: list[list[int]] = [[] for _ in ids]
    for counts in steps:
        hashes = iter(program.run(sequences.batch(counts))[5])
        for index, count in enumerate(counts):
            found[index] += [int(next(hashes)) for _ in range(count)]
    return found


@pytest.mark.parametrize("isa", ISAS)
def test_bits_do_not_depend_on_batch_chunks_or_threads(isa: str) -> None:
    ids = [tokens(33, seed) for seed in range(3)]
    together = hashes_in_steps(isa, 2, [[20, 1, 33], [13, 17, 0], [0, 15, 0]], ids)
    decoded = hashes_in_steps(isa, 3, [[1, 1, 1]] * 33, ids)
    assert together == decoded
    for index in range(3):
        assert hashes_in_steps(isa, 1, [[33]], [ids[index]])[0] == together[index]


def test_bits_do_not_depend_on_how_threads_share_many_rows() -> None:
    ids = [tokens(201, seed) for seed in range(2)]
    expected = hashes_in_steps(BEST, 1, [[40, 40]] * 5 + [[1, 1]], ids)
    for threads, steps in [
        (1, [[201, 150], [0, 51]]),
        (2, [[201, 201]]),
        (3, [[201, 200], [0, 1]]),
    ]:
        assert hashes_in_steps(BEST, threads, steps, ids) == expected


def test_float32_weights_give_the_same_bits_on_every_instruction_set() -> None:
    ids = [tokens(33, seed) for seed in range(2)]
    results = [hashes_in_steps(isa, 2, [[33, 20], [0, 13]], ids) for isa in ISAS]
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("kv", ["float16", "bfloat16", "float32", "int8"])
def test_copied_blocks_are_as_good_as_computed_ones(kv: str) -> None:
    ids = tokens(40)
    sequences = Sequences([ids, ids], 200)
    program = SmallModel().program(sequences.blocks, BEST, kv=kv)
    first = program.run(sequences.batch([40, 0]))
    sequences.done[1] = 39
    batch = sequences.batch([0, 1])
    batch.block_copies = np.stack([sequences.tables[0], sequences.tables[1]], 1)
    again = program.run(batch)
    assert again[5][0] == first[5][39]


def test_copies_are_done_in_order() -> None:
    ids = tokens(20)
    sequences = Sequences([ids, ids, ids], 200)
    program = SmallModel().program(sequences.blocks, BEST)
    first = program.run(sequences.batch([20, 0, 0]))
    sequences.done[2] = 19
    batch = sequences.batch([0, 0, 1])
    a, b, c = sequences.tables
    batch.block_copies = np.concatenate([np.stack([a, b], 1), np.stack([b, c], 1)])
    assert program.run(batch)[5][0] == first[5][19]


def test_only_the_asked_rows_have_logits() -> None:
    ids = [tokens(12, seed) for seed in range(3)]
    every = Sequences(ids, 200)
    program = SmallModel().program(every.blocks, BEST)
    expected = program.run(every.batch([12, 5, 7]))[5]
    last = Sequences(ids, 200)
    result = program.run(last.batch([12, 5, 7], logits="last"))
    assert result[5].tolist() == expected[[11, 16, 23]].tolist()
    assert program.logits().shape == (3, 200)
    assert result[3].shape == result[4].shape == (3, 0)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bits_do_not_depend_on_which_rows_are_read(isa: str, threads: int) -> None:
    """The last layer computes only those; where many are left, threads share them by rows again."""
    ids = [tokens(count, seed) for seed, count in enumerate((150, 90, 3))]
    counts = [len(one) for one in ids]
    everything = Sequences(ids, 200, shuffle=4)
    program = SmallModel().program(everything.blocks, isa, threads, max_tokens=sum(counts))
    expected = program.run(everything.batch(counts))[5]
    source = np.random.default_rng(8)
    for number in (0, 1, 2, 17, 100, 200, 227, 242):
        rows = np.sort(source.choice(sum(counts), number, replace=False))
        result = program.run(Sequences(ids, 200, shuffle=4).batch(counts, logits=rows))
        assert result[5].tolist() == expected[rows].tolist(), f"{number} rows are read"


def test_rows_that_ask_for_log_probabilities() -> None:
    ids = tokens(10)
    sequences = Sequences([ids], 200)
    program = SmallModel().program(sequences.blocks, BEST)
    batch = sequences.batch([10])
    batch.sampling.num_logprobs = np.array([-1, 0, 3, -1, 1, -1, -1, -1, -1, 2], np.int32)
    batch.sampling.forced = np.array([-1, 7, -1, -1, -1, -1, -1, -1, 9, -1], np.int32)
    token_ids, logprobs, ranks, top_ids, top_logprobs, _ = program.run(batch)
    logits = program.logits().astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    order = np.argsort(-logits, axis=1, kind="stable")
    assert token_ids[1] == 7 and token_ids[8] == 9 and token_ids[2] == order[2, 0]
    for row in (1, 2, 4, 9):
        assert logprobs[row] == pytest.approx(expected[row, token_ids[row]], abs=1e-5)
        assert order[row, ranks[row] - 1] == token_ids[row]
    assert np.isnan(logprobs[0]) and ranks[0] == 0
    assert top_ids.shape == top_logprobs.shape == (10, 3)
    assert top_ids[2].tolist() == order[2, :3].tolist()
    assert top_ids[9].tolist() == [*order[9, :2].tolist(), -1]
    assert top_ids[1].tolist() == [-1, -1, -1]
    np.testing.assert_allclose(top_logprobs[2], expected[2, order[2, :3]], atol=1e-5)


def test_profile_names_every_operator() -> None:
    sequences = Sequences([tokens(12)], 200)
    program = SmallModel().program(sequences.blocks, BEST)
    assert program.profile() == {}
    program.run(sequences.batch([12]))
    seconds = program.profile()
    assert {"embed", "linear", "attention", "logits", "sample", "wait linear"} <= seconds.keys()
    assert min(seconds.values()) > 0 and program.profile() == {}
