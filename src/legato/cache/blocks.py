"""BlockPool: who owns each block of the KV cache.

    free        nobody refers to it, its contents mean nothing
    cached      nobody refers to it, but the prefix index knows its contents; the least recently
                used one is given away when no block is free, and with it those that follow and lie in
                the same group: whoever needs one will need its neighbours
    referenced  held by one or more sequences (or, for one step, as the source of a copy)

The pool knows no requests and no tokens. Whoever ``take``s or ``retain``s a block must ``release``
it; whoever enters it into an index must ``keep`` it, and ``drop`` it when it leaves the index.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable

from legato.cache.free_blocks import GROUP_BLOCKS, FreeBlocks
from legato.errors import EngineError


class BlockPool:
    """``num_blocks`` blocks, numbered from 0. ``forget(block)`` is called when a cached block is
    about to be given away: the index must remove it."""

    def __init__(self, num_blocks: int, forget: Callable[[int], None]) -> None:
        self.num_blocks = num_blocks
        self._forget = forget
        self._free = FreeBlocks(num_blocks)
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._references = [0] * num_blocks
        self._kept = bytearray(num_blocks)  # 1: the index knows the block's contents

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def num_used(self) -> int:
        return self.num_blocks - len(self._free) - len(self._cached)

    @property
    def available(self) -> int:
        """Blocks that can be taken now."""
        return len(self._free) + len(self._cached)

    def references(self, block: int) -> int:
        return self._references[block]

    def take(self, index: int = 0, after: int | None = None, coming: int = 1) -> int:
        """A block for the caller alone: place ``index`` of a sequence whose last block is ``after``, the first
        of ``coming`` that are taken now. Raises EngineError if none is available: ask first."""
        if not self._free:
            self._give_up_cached()
        block = self._free.take(index, after, coming)
        self._references[block] = 1
        return block

    def _give_up_cached(self) -> None:
        if not self._cached:
            raise EngineError("no KV block is available")
        group = next(iter(self._cached)) // GROUP_BLOCKS
        while self._cached and next(iter(self._cached)) // GROUP_BLOCKS == group:
            block, _ = self._cached.popitem(last=False)
            self._kept[block] = 0
            self._forget(block)
            self._free.add(block)

    def retain(self, block: int) -> None:
        """One more reference to a block that is referenced or cached."""
        if self._references[block] == 0:
            del self._cached[block]
        self._references[block] += 1

    def cached(self) -> list[int]:
        """The cached blocks, the most recently used first."""
        return list(reversed(self._cached))

    def release(self, block: int) -> None:
        """One reference less. The contents of a kept block stay, as the most recently used."""
        left = self._references[block] - 1
        if left < 0:
            raise EngineError(f"KV block {block} is released more often than held")
        self._references[block] = left
        if left == 0:
            if self._kept[block]:
                self._cached[block] = None
                self._free.disown(block)
            else:
                self._free.add(block)

    def release_to_go_first(self, block: int) -> None:
        """``release``, but a kept block counts as the least recently used."""
        self.release(block)
        if block in self._cached:
            self._cached.move_to_end(block, last=False)

    def keep(self, block: int) -> None:
        """The index knows the contents of this block, which the caller holds."""
        self._kept[block] = 1

    def drop(self, block: int) -> None:
        """The index no longer knows the contents of this block."""
        self._kept[block] = 0
        if self._references[block] == 0:
            del self._cached[block]
            self._free.add(block)

    def check_integrity(self, holders: Counter[int], indexed: set[int]) -> None:
        """Every block is free, cached or referenced, exactly as often as ``holders`` say, and the
        kept ones are the ``indexed`` ones. Raises EngineError otherwise."""
        self._free.check_integrity()
        free = set(self._free)
        for block in range(self.num_blocks):
            held, kept = self._references[block], bool(self._kept[block])
            states = (block in free, block in self._cached, held > 0)
            if sum(states) != 1:
                raise EngineError(f"KV block {block}: free, cached, referenced = {states}")
            if held != holders[block]:
                raise EngineError(f"KV block {block}: {held} references, {holders[block]} holders")
            if kept != (block in indexed) or (kept and block in free):
                raise EngineError(f"KV block {block}: kept = {kept}, but the index differs")
