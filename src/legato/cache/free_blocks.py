"""FreeBlocks: which block is given away next, so that a sequence's blocks follow each other in memory.

Attention reads `GROUP_BLOCKS` blocks at once, and the pool's memory lies in groups of as many. Behind its
first `GROUP_BLOCKS` blocks a sequence therefore begins a group of its own, which nobody else takes from
while there are others. The first ones share groups: short sequences would touch memory that they do not
use, and have little to read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from legato.errors import EngineError

GROUP_BLOCKS: Final = 8
"""kKvGroup of the native core. Blocks n * 8 to n * 8 + 7 are a group; the last one may have fewer."""


class FreeBlocks:
    """All of ``num_blocks`` at first; group 0 is begun first."""

    def __init__(self, num_blocks: int) -> None:
        groups = range(0, num_blocks, GROUP_BLOCKS)
        self._all = [(1 << min(GROUP_BLOCKS, num_blocks - first)) - 1 for first in groups]
        self._free = self._all.copy()  # of each group, a bit for each free block
        self._whole = list(range(len(self._all) - 1, -1, -1))  # wholly free: a stack
        self._shared: dict[int, None] = {}  # partly free: for everybody,
        self._owned: dict[int, None] = {}  # and for one sequence, as long as there are others
        self._num = num_blocks

    def __len__(self) -> int:
        return self._num

    def __iter__(self) -> Iterator[int]:
        for group, bits in enumerate(self._free):
            for place in range(GROUP_BLOCKS):
                if bits >> place & 1:
                    yield group * GROUP_BLOCKS + place

    def take(self, index: int, after: int | None) -> int:
        """A block for place ``index`` of a sequence whose last block is ``after``; one must be free."""
        if after is not None and (after + 1) % GROUP_BLOCKS:
            group, place = divmod(after + 1, GROUP_BLOCKS)
            if self._free[group] >> place & 1:
                return self._give(group, place)
        begins_group = index >= GROUP_BLOCKS
        if self._whole and (begins_group or not self._shared):
            group = self._whole.pop()
            (self._owned if begins_group else self._shared)[group] = None
            place = index % GROUP_BLOCKS  # so that a tile of attention lies in one group
            if begins_group and self._free[group] >> place & 1:
                return self._give(group, place)
        else:
            group = next(reversed(self._shared or self._owned))
        bits = self._free[group]
        return self._give(group, (bits & -bits).bit_length() - 1)

    def _give(self, group: int, place: int) -> int:
        self._free[group] &= ~(1 << place)
        self._num -= 1
        if not self._free[group]:
            self._shared.pop(group, None)
            self._owned.pop(group, None)
        return group * GROUP_BLOCKS + place

    def add(self, block: int) -> None:
        """Nobody refers to it any more, and its contents mean nothing."""
        group, place = divmod(block, GROUP_BLOCKS)
        self._free[group] |= 1 << place
        self._num += 1
        self._owned.pop(group, None)
        if self._free[group] == self._all[group]:
            self._shared.pop(group, None)
            self._whole.append(group)
        else:
            self._shared[group] = None

    def share(self, block: int) -> None:
        """A block has lost its sequence, but stays: what is free beside it is there for everybody."""
        group = block // GROUP_BLOCKS
        if group in self._owned:
            del self._owned[group]
            self._shared[group] = None

    def check_integrity(self) -> None:
        """Every group is where its free blocks say. Raises EngineError otherwise."""
        whole = set(self._whole)
        if len(whole) != len(self._whole) or self._num != sum(map(int.bit_count, self._free)):
            raise EngineError("the free KV blocks are not counted right")
        for group, bits in enumerate(self._free):
            places = (group in whole, group in self._shared or group in self._owned)
            if places != (bits == self._all[group], 0 < bits < self._all[group]):
                raise EngineError(
                    f"KV group {group}: whole, partly free = {places}, {bits:#x} is free"
                )
            if group in self._shared and group in self._owned:
                raise EngineError(f"KV group {group} belongs to one sequence and to everybody")
