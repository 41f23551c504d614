"""FreeBlocks: which block is given away next, so that a sequence's blocks follow each other in memory.

Attention reads `GROUP_BLOCKS` blocks at once, and the pool's memory lies in groups of as many. A sequence
therefore takes runs of blocks: it gets the first one and owns the others, which nobody else takes while
there are any. The longer it is the longer are its runs, so that what it owns and does not use is a small
part of it. Runs are aligned, as those of a buddy allocator (Knowlton, 1965), and come from where no longer
ones would fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from legato.errors import EngineError

GROUP_BLOCKS: Final = 8
"""kKvGroup of the native core. Blocks n * 8 to n * 8 + 7 are a group; the last one may have fewer."""
WHOLE: Final = 3
"""The order of a run that is a group: runs have 2**0, 2**1, 2**2 or 2**3 blocks."""
OWNED: Final = 4
"""The shelf of groups whose free blocks are all owned."""


def _places(order: int, blocks: int) -> list[int]:
    """Where in a group, of which a set of ``blocks`` is there, runs of 2**order may begin."""
    run = (1 << (1 << order)) - 1
    return [at for at in range(0, GROUP_BLOCKS, 1 << order) if blocks >> at & run == run]


SETS: Final = range(1 << GROUP_BLOCKS)
LONGEST: Final = [max((k for k in range(WHOLE + 1) if _places(k, s)), default=-1) for s in SETS]
"""Of a set of a group's blocks (a bit for each): the order of the longest run."""
FIRST: Final = [[min(_places(order, s), default=-1) for s in SETS] for order in range(WHOLE + 1)]
"""Of an order and a set: where the first such run begins."""


def _rest(place: int, order: int) -> int:
    """The blocks of a group from ``place`` to the end of the run that it lies in."""
    end = ((place >> order) + 1) << order
    return (1 << end) - (1 << place)


def run_order(index: int, coming: int) -> int:
    """The order of the run that a sequence takes for its block ``index``, when so many are taken now."""
    for_length = min((index // GROUP_BLOCKS).bit_length(), WHOLE)
    return max(for_length, min(coming, GROUP_BLOCKS).bit_length() - 1)


class FreeBlocks:
    """All of ``num_blocks`` at first; group 0 is begun first."""

    def __init__(self, num_blocks: int) -> None:
        firsts = range(0, num_blocks, GROUP_BLOCKS)
        self._free = [(1 << min(GROUP_BLOCKS, num_blocks - first)) - 1 for first in firsts]
        self._owned = [0] * len(firsts)  # of the free ones
        # A shelf for each order of the longest run that nobody owns, and one more; each in the order of use.
        self._shelves: list[dict[int, None]] = [{} for _ in range(OWNED + 1)]
        self._shelf_of = [-1] * len(firsts)
        self._num = num_blocks
        if (
            self._free[-1] != SETS[-1]
        ):  # owned by nobody, so it goes last: until then its memory is untouched
            self._owned[-1] = self._free[-1]
        for group in reversed(range(len(firsts))):
            self._put(group)

    def __len__(self) -> int:
        return self._num

    def __iter__(self) -> Iterator[int]:
        for group, free in enumerate(self._free):
            for place in range(GROUP_BLOCKS):
                if free >> place & 1:
                    yield group * GROUP_BLOCKS + place

    def take(self, index: int, after: int | None, coming: int) -> int:
        """A block for place ``index`` of a sequence whose last block is ``after``, and which takes ``coming``
        blocks now, this one among them; one must be free."""
        order = run_order(index, coming)
        if after is not None and (after + 1) % GROUP_BLOCKS:
            group, place = divmod(after + 1, GROUP_BLOCKS)
            if self._owned[group] >> place & 1:
                return self._give(group, place)
            rest = _rest(place, order)
            if self._free[group] & ~self._owned[group] & rest == rest:
                return self._begin(group, place, order)
        for shelf in (*range(order, WHOLE + 1), *reversed(range(order))):
            if self._shelves[shelf]:
                group, order = next(reversed(self._shelves[shelf])), min(order, shelf)
                if order == WHOLE:  # a tile of attention shall lie in one group
                    return self._begin(group, index % GROUP_BLOCKS, order)
                place = FIRST[order][self._free[group] & ~self._owned[group]]
                return self._begin(group, place, order)
        group = next(reversed(self._shelves[OWNED]))
        return self._give(group, FIRST[0][self._free[group]])

    def _begin(self, group: int, place: int, order: int) -> int:
        """The block there; what follows it in its run is owned."""
        self._owned[group] |= _rest(place, order)
        return self._give(group, place)

    def _give(self, group: int, place: int) -> int:
        self._free[group] &= ~(1 << place)
        self._owned[group] &= self._free[group]
        self._num -= 1
        self._put(group)
        return group * GROUP_BLOCKS + place

    def add(self, block: int) -> None:
        """Nobody refers to it any more, and its contents mean nothing."""
        group, place = divmod(block, GROUP_BLOCKS)
        self._free[group] |= 1 << place
        self._num += 1
        self.disown(block)

    def disown(self, block: int) -> None:
        """This block has lost its sequence: what that owned behind it is there for everybody."""
        group, place = divmod(block + 1, GROUP_BLOCKS)
        if place:
            while self._owned[group] >> place & 1:
                self._owned[group] &= ~(1 << place)
                place += 1
        self._put(block // GROUP_BLOCKS)

    def _put(self, group: int) -> None:
        """Onto its shelf."""
        free, old = self._free[group], self._shelf_of[group]
        open_ones = free & ~self._owned[group]
        shelf = LONGEST[open_ones] if open_ones else OWNED if free else -1
        if shelf == old:
            return
        if old >= 0:
            del self._shelves[old][group]
        if shelf >= 0:
            self._shelves[shelf][group] = None
        self._shelf_of[group] = shelf

    def check_integrity(self) -> None:
        """Every group is where its blocks say. Raises EngineError otherwise."""
        if self._num != sum(map(int.bit_count, self._free)):
            raise EngineError("the free KV blocks are not counted right")
        for group, (free, owned) in enumerate(zip(self._free, self._owned, strict=True)):
            before = self._shelf_of[group]
            self._put(group)
            shelves = [shelf for shelf, groups in enumerate(self._shelves) if group in groups]
            if before != self._shelf_of[group] or shelves != [before] * (before >= 0):
                raise EngineError(f"KV group {group} is on shelf {before}, found on {shelves}")
            if owned & ~free:
                raise EngineError(f"KV group {group}: {owned:#x} is owned, {free:#x} is free")
