"""Where blocks lie: counted, never given twice, and a long sequence's in groups of its own."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from legato.batch import BLOCK_SIZE
from legato.cache.free_blocks import GROUP_BLOCKS, FreeBlocks
from legato.cache.kv import Hold, KVCache
from legato.errors import EngineError


def grow(cache: KVCache, hold: Hold, blocks: int, first_token: int) -> None:
    """Its tokens are its own from ``first_token`` on."""
    num_tokens = blocks * BLOCK_SIZE
    if hold.is_empty:
        tokens = np.arange(first_token, first_token + num_tokens, dtype=np.int32)
        assert cache.claim(hold, tokens, num_tokens - 1, spare=0) is not None
    else:
        assert cache.extend(hold, num_tokens)


def grow_in_turns(cache: KVCache, holds: list[Hold], lengths: range) -> None:
    """To each number of blocks, one after the other."""
    for blocks in lengths:
        for number, hold in enumerate(holds):
            grow(cache, hold, blocks, number * 10_000)


def tiles(hold: Hold) -> list[list[int]]:
    """The sequence's blocks in parts of GROUP_BLOCKS."""
    return [hold.blocks[i : i + GROUP_BLOCKS] for i in range(0, len(hold.blocks), GROUP_BLOCKS)]


def is_in_a_line(blocks: list[int]) -> bool:
    """And in one group."""
    first = blocks[0]
    is_ascending = blocks == list(range(first, first + len(blocks)))
    return is_ascending and first // GROUP_BLOCKS == blocks[-1] // GROUP_BLOCKS


def test_sequences_that_grow_in_turns_take_longer_and_longer_runs() -> None:
    cache = KVCache(num_blocks=800, lanes=8, max_len=16 * 64)
    holds = [Hold("") for _ in range(8)]
    grow_in_turns(cache, holds, range(1, 49))
    cache.check_integrity(holds)
    for hold in holds:
        pairs = [hold.blocks[i : i + 2] for i in range(8, 16, 2)]
        halves = [hold.blocks[i : i + 4] for i in range(16, 32, 4)]
        assert all(map(is_in_a_line, pairs + halves + tiles(hold)[4:]))
        cache.release(hold)
    cache.check_integrity([])


@pytest.mark.parametrize("length", [12, 20, 33, 40, 64])
def test_what_sequences_own_and_do_not_use_is_a_small_part(length: int) -> None:
    cache = KVCache(num_blocks=2000, lanes=16, max_len=16 * 64)
    holds = [Hold("") for _ in range(16)]
    grow_in_turns(cache, holds, range(1, length + 1))
    touched = max(max(hold.blocks) for hold in holds) + 1
    assert touched <= 1.25 * 16 * length


def test_a_prompt_lies_in_a_line_from_its_beginning() -> None:
    cache = KVCache(num_blocks=400, lanes=4, max_len=16 * 64)
    holds = [Hold("") for _ in range(4)]
    for number, hold in enumerate(holds):
        grow(cache, hold, 40, number * 10_000)
        assert all(map(is_in_a_line, tiles(hold)))


def test_what_follows_a_shared_beginning_keeps_to_the_borders_of_tiles() -> None:
    cache = KVCache(num_blocks=400, lanes=4, max_len=16 * 64)
    tokens = np.arange(20 * BLOCK_SIZE, dtype=np.int32)
    holds = [Hold("") for _ in range(4)]
    for number, hold in enumerate(holds):
        mine = tokens.copy()
        mine[11 * BLOCK_SIZE :] += number * 10_000
        assert cache.claim(hold, mine, len(mine) - 1, spare=0) is not None
        cache.index_full(hold, mine, len(mine))
        assert hold.blocks[:11] == holds[0].blocks[:11]
        second, third = tiles(hold)[1:]
        assert [block % GROUP_BLOCKS for block in second] == list(range(GROUP_BLOCKS))
        assert is_in_a_line(second[3:]) and is_in_a_line(third)


def test_short_sequences_share_groups() -> None:
    """They touch no more memory than they need."""
    cache = KVCache(num_blocks=800, lanes=40, max_len=16 * 64)
    holds = [Hold("") for _ in range(40)]
    grow_in_turns(cache, holds, range(1, 4))
    assert max(max(hold.blocks) for hold in holds) == 119


def test_a_newcomer_leaves_a_long_sequence_room_to_grow() -> None:
    cache = KVCache(num_blocks=80, lanes=2, max_len=16 * 64)
    long, short = Hold(""), Hold("")
    grow(cache, long, 33, 0)
    for blocks in range(1, 8):
        grow(cache, short, blocks, 10_000)
        grow(cache, long, 33 + blocks, 0)
    assert all(map(is_in_a_line, tiles(long)))


def test_what_a_sequence_has_left_is_there_for_short_ones() -> None:
    """Its last, cached blocks lie in a group that the next ones fill before they begin another."""
    cache = KVCache(num_blocks=80, lanes=2, max_len=16 * 64)
    hold, tokens = Hold(""), np.arange(12 * BLOCK_SIZE, dtype=np.int32)
    assert cache.claim(hold, tokens, len(tokens) - 1, spare=0) == 0
    cache.index_full(hold, tokens, len(tokens))
    cache.release(hold)
    assert cache.pool.num_cached == 12
    grow(cache, hold, 4, 10_000)
    assert hold.blocks == [12, 13, 14, 15]


def test_what_a_sequence_owned_is_everybodys_when_it_ends() -> None:
    """The next ones touch no other memory."""
    cache = KVCache(num_blocks=80, lanes=5, max_len=16 * 64)
    long, holds = Hold(""), [Hold("") for _ in range(5)]
    grow(cache, long, 33, 0)
    cache.release(long)
    for number, hold in enumerate(holds):
        grow(cache, hold, 8, 10_000 * number)
        assert is_in_a_line(hold.blocks)
    assert max(max(hold.blocks) for hold in holds) == 39


def test_when_no_group_is_left_every_block_is_still_given_away() -> None:
    cache = KVCache(num_blocks=61, lanes=4, max_len=16 * 64)
    holds = [Hold("") for _ in range(4)]
    grow_in_turns(cache, holds, range(1, 16))
    assert cache.pool.available == 1 and cache.extend(holds[0], 16 * BLOCK_SIZE)
    assert not cache.extend(holds[1], 16 * BLOCK_SIZE)
    assert sorted(block for hold in holds for block in hold.blocks) == list(range(61))


def test_evicted_blocks_lie_in_a_line_again() -> None:
    """A pool that is full of what others have left gives a long sequence whole groups."""
    cache = KVCache(num_blocks=160, lanes=1, max_len=16 * 200)
    for number in range(4):
        hold = Hold("")
        tokens = np.arange(40 * BLOCK_SIZE, dtype=np.int32) + number * 10_000
        assert cache.claim(hold, tokens, len(tokens) - 1, spare=0) == 0
        cache.index_full(hold, tokens, len(tokens))
        cache.release(hold)
    assert cache.pool.num_free == 0 and cache.pool.num_cached == 160
    hold = Hold("")
    for blocks in range(1, 81):
        grow(cache, hold, blocks, 90_000)
    assert all(map(is_in_a_line, tiles(hold)))
    assert cache.pool.num_cached == 80


def test_a_prefix_that_is_restored_block_by_block_lies_in_a_line() -> None:
    cache, parent = KVCache(num_blocks=100, lanes=1, max_len=16 * 64), None
    for number in range(40):
        tokens = tuple(range(number * BLOCK_SIZE, (number + 1) * BLOCK_SIZE))
        parent = cache.restore(parent, "", tokens, lambda block: None)
    hold, tokens = Hold(""), np.arange(40 * BLOCK_SIZE + 1, dtype=np.int32)
    assert cache.claim(hold, tokens, 40 * BLOCK_SIZE, spare=0) == 40 * BLOCK_SIZE
    assert all(map(is_in_a_line, tiles(hold)))


@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 99), st.booleans()), max_size=120),
)
@settings(max_examples=300, deadline=None)
def test_no_block_is_lost_or_given_twice(
    num_blocks: int, moves: list[tuple[int, int, bool]]
) -> None:
    free, held = FreeBlocks(num_blocks), list[int]()
    for index, choice, takes in moves:
        if takes and len(free):
            after = held[choice % len(held)] if held and choice % 3 else None
            block = free.take(index, after, 1 + choice % 9)
            assert 0 <= block < num_blocks and block not in held
            held.append(block)
        elif held:
            block = held.pop(choice % len(held))
            if choice % 2:
                free.disown(block)
            free.add(block)
        free.check_integrity()
        assert sorted([*free, *held]) == list(range(num_blocks))
        assert len(free) == num_blocks - len(held)


def test_integrity_finds_what_is_wrong() -> None:
    free = FreeBlocks(16)
    free.add(free.take(0, None, 1))
    free.check_integrity()
    free.add(3)  # nobody had it
    with pytest.raises(EngineError, match="not counted right"):
        free.check_integrity()
