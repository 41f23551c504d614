"""A block of the KV pool, as whoever keeps blocks sees it."""

from __future__ import annotations

import numpy as np
import pytest

from legato import _native as native
from legato.cache.free_blocks import GROUP_BLOCKS

BLOCKS, LAYERS, KV_HEADS = 21, 3, 2
KINDS = [
    ("float32", 20, 4 * 20),
    ("float16", 20, 2 * 20),
    ("bfloat16", 20, 2 * 32),
    ("int8", 20, 32 + 4),
]


@pytest.mark.parametrize(("dtype", "head_dim", "position_bytes"), KINDS)
def test_every_block_is_kept_as_it_is_written(
    dtype: str, head_dim: int, position_bytes: int
) -> None:
    """And no two overlap: all are written before the first is read."""
    program = native.Program(isa="scalar", threads=1, max_tokens=1, max_logit_rows=1)
    program.kv_cache(
        layers=LAYERS, blocks=BLOCKS, kv_heads=KV_HEADS, head_dim=head_dim, dtype=dtype
    )
    width = program.kv_block_bytes()
    assert width == LAYERS * 2 * KV_HEADS * 16 * position_bytes
    written = np.random.default_rng(0).integers(0, 256, (BLOCKS, width), np.uint8)
    order = np.random.default_rng(1).permutation(BLOCKS)
    for block in order:
        program.write_kv_block(int(block), written[block])
    for block in range(BLOCKS):
        assert program.read_kv_block(block) == written[block].tobytes()


def test_what_is_no_block_is_refused() -> None:
    program = native.Program(isa="scalar", threads=1, max_tokens=1, max_logit_rows=1)
    with pytest.raises(ValueError, match="kv_cache: there is none"):
        program.kv_block_bytes()
    with pytest.raises(ValueError, match="kv_cache: there is none"):
        program.read_kv_block(0)
    program.kv_cache(layers=1, blocks=9, kv_heads=1, head_dim=16, dtype="float32")
    data = np.zeros(program.kv_block_bytes(), np.uint8)
    for block in (-1, 9):
        with pytest.raises(ValueError, match=r"block: -?\d+ is not in 0..8"):
            program.read_kv_block(block)
        with pytest.raises(ValueError, match=r"block: -?\d+ is not in 0..8"):
            program.write_kv_block(block, data)
    for wrong in (data[:-1], np.append(data, data[:1])):
        with pytest.raises(ValueError, match=r"bytes: \d+ is not in 2048..2048"):
            program.write_kv_block(8, wrong)
    with pytest.raises(ValueError, match="data: not a C-contiguous buffer"):
        program.write_kv_block(8, np.zeros((len(data), 2), np.uint8)[:, 0])


def test_blocks_are_given_away_in_the_groups_in_which_they_lie() -> None:
    assert GROUP_BLOCKS == native.KV_GROUP
