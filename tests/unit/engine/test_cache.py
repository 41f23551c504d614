"""Block pool and prefix index, each against a naive model."""

from __future__ import annotations

from collections import Counter
from copy import copy

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from legato.batch import BLOCK_SIZE, I32
from legato.cache.blocks import BlockPool
from legato.cache.kv import Hold, KVCache
from legato.cache.prefix import PrefixIndex, common_length
from legato.errors import EngineError


def test_the_least_recently_used_blocks_are_given_away() -> None:
    """One after the other, as long as they lie in the same group: 17 and 16, then 9, then 1 and 0."""
    forgotten: list[int] = []
    pool = BlockPool(24, forgotten.append)
    assert [pool.take() for _ in range(24)] == list(range(24))
    for block in (16, 9, 0, 1, 17):
        pool.keep(block)
    for block in (16, 17, 9, 1, 0):
        pool.release(block)
    pool.retain(16)
    pool.release(16)
    pool.retain(9)
    pool.release(9)
    assert pool.cached() == [9, 16, 0, 1, 17]
    taken = []
    for expected in ([17], [17, 1, 0], [17, 1, 0], [17, 1, 0, 16], [17, 1, 0, 16, 9]):
        taken.append(pool.take())
        assert forgotten == expected
    assert taken == [17, 0, 1, 16, 9]
    with pytest.raises(EngineError, match="no KV block is available"):
        pool.take()


def test_integrity_finds_what_is_wrong() -> None:
    pool = BlockPool(4, lambda block: None)
    held, kept = pool.take(), pool.take()
    pool.keep(kept)
    pool.release(kept)
    pool.check_integrity(Counter([held]), {kept})
    with pytest.raises(EngineError, match="1 references, 0 holders"):
        pool.check_integrity(Counter(), {kept})
    with pytest.raises(EngineError, match="the index differs"):
        pool.check_integrity(Counter([held]), set())
    with pytest.raises(EngineError, match="more often than held"):
        pool.release(kept)


def ids(tokens: list[int]) -> I32:
    return np.array(tokens, np.int32)


streams = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=40), min_size=1, max_size=12)


@given(streams, st.lists(st.integers(0, 2), min_size=1, max_size=60))
@settings(max_examples=200, deadline=None)
def test_the_longest_known_beginning_is_found(known: list[list[int]], wanted: list[int]) -> None:
    index = PrefixIndex()
    block = 0
    for tokens in known:
        node = None
        for start in range(0, len(tokens), BLOCK_SIZE):
            part = tuple(tokens[start : start + BLOCK_SIZE])
            node, _ = index.insert(node, "", part, block)
            block += 1
        index.check_integrity()
    match = index.match("", ids(wanted))
    found = len(match.nodes) * BLOCK_SIZE + match.tail_length
    assert found == max(common_length(tokens, wanted) for tokens in known)
    assert index.match("other salt", ids(wanted)).nodes == []


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_lookups_in_a_row_find_what_each_would_alone(data: st.DataObject) -> None:
    """Streams share long beginnings, and are given away from their ends, and computed anew."""
    index = PrefixIndex()
    stems = [[letter] * BLOCK_SIZE * 3 for letter in (0, 1)]
    block = 0
    for _ in range(data.draw(st.integers(1, 30))):
        salt = data.draw(st.sampled_from(["", "salt"]))
        stem = data.draw(st.sampled_from(stems))
        length = data.draw(st.integers(0, len(stem)))
        tokens = [*stem[:length], *data.draw(st.lists(st.integers(0, 1), max_size=BLOCK_SIZE))]
        match data.draw(st.sampled_from(["insert", "match", "match", "forget"])):
            case "insert":
                node = None
                for start in range(0, len(tokens), BLOCK_SIZE):
                    part = tuple(tokens[start : start + BLOCK_SIZE])
                    node, _ = index.insert(node, salt, part, block)
                    block += 1
            case "forget":
                leaves = [b for b in sorted(index.blocks) if not index.at(b).children]
                for leaf in data.draw(st.permutations(leaves))[:3]:
                    index.forget(leaf)
            case _:
                found = index.match(salt, ids(tokens))
                expected = without_memory(index).match(salt, ids(tokens))
                assert found == expected
                assert all(index.knows(node) for node in found.nodes)


def without_memory(index: PrefixIndex) -> PrefixIndex:
    other = copy(index)
    other._last = ("", ids([]), [])
    return other


def test_a_longer_tail_replaces_a_shorter_one() -> None:
    index = PrefixIndex()
    index.insert(None, "", (1, 2), 0)
    node, replaced = index.insert(None, "", (1, 2, 3), 1)
    assert replaced is not None and replaced.block == 0 and index.blocks == {1}
    assert index.insert(None, "", (1, 2), 2) == (node, None)
    index.forget(1)
    assert len(index) == 0 and index.match("", ids([1, 2])).tail is None


def test_a_claim_that_fails_changes_nothing() -> None:
    cache = KVCache(num_blocks=4, lanes=2, max_len=64)
    tokens = np.arange(40, dtype=np.int32)
    first = Hold("")
    assert cache.claim(first, tokens, 39, spare=0) == 0
    cache.index_tail(first, tokens, 40)
    assert cache.claim(Hold(""), tokens, 39, spare=1) is None
    cache.check_integrity([first])
    second = Hold("")
    # The third block would have to be copied, and there is one block left for the copy.
    assert cache.claim(second, tokens, 39, spare=0) == 39
    assert second.copy == (first.blocks[2], second.blocks[2])
    cache.check_integrity([first, second])
    assert not cache.extend(second, 49) and cache.extend(second, 48)
    for hold in (first, second):
        cache.release(hold)
    cache.check_integrity([])
    assert cache.pool.num_cached == 3


def test_what_is_known_is_told_beginnings_first() -> None:
    """Whatever the blocks' numbers are: what is kept of it can be found again only from its beginning."""
    cache = KVCache(num_blocks=64, lanes=2, max_len=1000)
    tokens = np.arange(48, dtype=np.int32)
    hold = Hold("")
    cache.claim(hold, tokens, 0, spare=0)
    hold.blocks = hold.blocks[::-1]
    cache.tables[hold.lane, :3] = hold.blocks
    cache.index_full(hold, tokens, 48)
    assert [node.depth for node in cache.known(10)] == [1, 2, 3]


def test_a_copy_is_given_up_when_its_source_is_the_missing_block() -> None:
    cache = KVCache(num_blocks=3, lanes=1, max_len=64)
    tokens = np.arange(40, dtype=np.int32)
    hold = Hold("")
    cache.claim(hold, tokens, 39, spare=0)
    cache.index_tail(hold, tokens, 40)
    cache.release(hold)
    assert cache.claim(hold, tokens, 39, spare=0) == 32
    assert hold.copy is None
    cache.check_integrity([hold])
