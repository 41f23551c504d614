"""KVCache: what a sequence holds of the cache, from its claim to its release.

Ownership: a ``Hold`` belongs to one sequence and is changed here only. It holds one reference to
each block in ``blocks`` and, until the step that copies has run, one to the source of ``copy``.
Blocks before ``indexed`` are in the prefix index on the path to ``node``; since the block of a
second sequence that computed the same tokens is swapped for the indexed one, a sequence holds the
whole path, so children leave the cache before their parents.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from legato.batch import BLOCK_SIZE, I32
from legato.cache.blocks import BlockPool
from legato.cache.prefix import Match, Node, PrefixIndex
from legato.errors import EngineError


def blocks_for(tokens: int) -> int:
    """Blocks that hold so many tokens."""
    return -(-tokens // BLOCK_SIZE)


@dataclass(slots=True, eq=False)
class Hold:
    """One sequence's part of the cache. ``lane``: its row of ``KVCache.tables``; -1: none."""

    salt: str
    lane: int = -1
    blocks: list[int] = field(default_factory=list)
    indexed: int = 0
    node: Node | None = None
    copy: tuple[int, int] | None = None  # (source, destination) of the coming step

    @property
    def num_indexed(self) -> int:
        """Tokens in the blocks that are in the index."""
        return self.indexed * BLOCK_SIZE

    @property
    def room(self) -> int:
        """Tokens that its blocks have room for."""
        return len(self.blocks) * BLOCK_SIZE

    @property
    def is_empty(self) -> bool:
        return self.lane < 0


class KVCache:
    """Blocks, prefix index and block tables of ``lanes`` sequences of up to ``max_len`` tokens."""

    def __init__(self, num_blocks: int, lanes: int, max_len: int) -> None:
        self.index = PrefixIndex()
        self.pool = BlockPool(num_blocks, self.index.forget)
        self.tables: I32 = np.zeros((lanes, blocks_for(max_len)), np.int32)
        self.num_claims = 0  # counted up when a lane is taken or left,
        self.num_changes = 0  # and when a row of ``tables`` changes otherwise
        self._lanes = list(range(lanes - 1, -1, -1))

    def claim(self, hold: Hold, tokens: I32, reusable: int, spare: int) -> int | None:
        """Blocks for all ``tokens``, and a lane.

        Returns how many of the first ``reusable`` tokens were found in the cache; or None, with
        nothing changed, if fewer than ``spare`` blocks would be left for others.
        """
        if not self._lanes:
            return None
        match = self.index.match(hold.salt, tokens[:reusable])
        needed = blocks_for(len(tokens)) - len(match.nodes)
        for node in match.nodes:
            self.pool.retain(node.block)
        if match.tail is not None:
            self.pool.retain(match.tail.block)
            if self.pool.available < needed + spare:  # the source may be the block that is missing
                self.pool.release(match.tail.block)
                match.tail = None
        if self.pool.available < needed + spare:
            for node in reversed(match.nodes):
                self.pool.release(node.block)
            return None
        return self._take(hold, match, needed)

    def _take(self, hold: Hold, match: Match, needed: int) -> int:
        hold.lane = self._lanes.pop()
        hold.blocks = [node.block for node in match.nodes]
        for coming in range(needed, 0, -1):
            self._append(hold, coming)
        hold.indexed = len(match.nodes)
        hold.node = match.nodes[-1] if match.nodes else None
        self.tables[hold.lane, : len(hold.blocks)] = hold.blocks
        self.num_claims += 1
        found = hold.indexed * BLOCK_SIZE
        if match.tail is None:
            return found
        hold.copy = (match.tail.block, hold.blocks[hold.indexed])
        return found + match.tail_length

    def can_extend(self, hold: Hold, num_tokens: int, spare: int) -> bool:
        """Whether there is room for ``num_tokens`` with ``spare`` blocks left for others."""
        return blocks_for(num_tokens) - len(hold.blocks) + spare <= self.pool.available

    def extend(self, hold: Hold, num_tokens: int) -> bool:
        """Makes room for ``num_tokens``; False, with nothing changed, if no block is available."""
        missing = blocks_for(num_tokens) - len(hold.blocks)
        if missing > self.pool.available:
            return False
        for coming in range(missing, 0, -1):
            self._append(hold, coming)
            self.tables[hold.lane, len(hold.blocks) - 1] = hold.blocks[-1]
            self.num_changes += 1
        return True

    def _append(self, hold: Hold, coming: int) -> None:
        after = hold.blocks[-1] if hold.blocks else None
        hold.blocks.append(self.pool.take(len(hold.blocks), after, coming))

    def copied(self, hold: Hold) -> None:
        """The step that copies has run: its source needs no protection any more."""
        if hold.copy is not None:
            self.pool.release(hold.copy[0])
            hold.copy = None

    def index_full(self, hold: Hold, tokens: I32, computed: int) -> None:
        """Enters the blocks that ``computed`` tokens have filled into the prefix index."""
        while (hold.indexed + 1) * BLOCK_SIZE <= computed:
            position, block = hold.indexed, hold.blocks[hold.indexed]
            start = position * BLOCK_SIZE
            hold.node = self._insert(hold, tokens[start : start + BLOCK_SIZE], block)
            if hold.node.block != block:  # somebody was faster: share theirs
                self.pool.retain(hold.node.block)
                self.pool.release(block)
                hold.blocks[position] = self.tables[hold.lane, position] = hold.node.block
                self.num_changes += 1
            hold.indexed += 1

    def index_tail(self, hold: Hold, tokens: I32, computed: int) -> None:
        """Enters the last block too, as far as it is filled."""
        if hold.copy is not None:
            return  # its first step has not run: beyond the shared blocks nothing is there yet
        self.index_full(hold, tokens, computed)
        start = hold.indexed * BLOCK_SIZE
        if computed > start:
            self._insert(hold, tokens[start:computed], hold.blocks[hold.indexed])

    def _insert(self, hold: Hold, tokens: I32, block: int) -> Node:
        return self._enter(hold.node, hold.salt, tuple(tokens.tolist()), block)

    def _enter(self, parent: Node | None, salt: str, tokens: tuple[int, ...], block: int) -> Node:
        node, replaced = self.index.insert(parent, salt, tokens, block)
        if replaced is not None:
            self.pool.drop(replaced.block)
        if node.block == block:
            self.pool.keep(block)
        return node

    def known(self, most: int) -> list[Node]:
        """What a prefix may find, up to ``most`` blocks: those in use, then the others, the most recently
        used first; parents before their children."""
        held = [block for block in self.index.blocks if self.pool.references(block)]
        nodes = sorted(map(self.index.at, held), key=lambda node: node.depth)
        nodes += map(self.index.at, self.pool.cached())
        return nodes[:most]

    def restore(
        self, parent: Node | None, salt: str, tokens: tuple[int, ...], fill: Callable[[int], None]
    ) -> Node:
        """Enters ``tokens`` after ``parent`` with a block that ``fill`` writes, as the first to be given
        away. Returns the node that knows them. A block must be free."""
        index, after = (parent.depth, parent.block) if parent is not None else (0, None)
        block = self.pool.take(index, after)
        try:
            fill(block)
        except BaseException:
            self.pool.release(block)
            raise
        node = self._enter(parent, salt, tokens, block)
        self.pool.release_to_go_first(block)
        return node

    def release(self, hold: Hold) -> None:
        """Gives everything back. What is in the index stays cached; the last block goes first."""
        if hold.is_empty:
            return
        self.copied(hold)
        for block in reversed(hold.blocks):
            self.pool.release(block)
        self.tables[hold.lane, : len(hold.blocks)] = 0
        self.num_claims += 1
        self._lanes.append(hold.lane)
        hold.lane, hold.blocks, hold.indexed, hold.node = -1, [], 0, None

    def clear(self) -> None:
        """Forgets all cached blocks (those that nobody holds)."""
        held = [self.pool.take() for _ in range(self.pool.available)]
        for block in held:
            self.pool.release(block)

    def check_integrity(self, holds: Iterable[Hold]) -> None:
        """The pool balances, and each hold agrees with its row. Raises EngineError otherwise."""
        holders: Counter[int] = Counter()
        lanes = set(self._lanes)
        for hold in holds:
            holders.update(hold.blocks)
            if hold.copy is not None:
                holders[hold.copy[0]] += 1
            if hold.is_empty:
                continue
            if hold.lane in lanes:
                raise EngineError(f"lane {hold.lane} is used twice")
            lanes.add(hold.lane)
            row = self.tables[hold.lane]
            used = len(hold.blocks)
            if row[:used].tolist() != hold.blocks or row[used:].any():
                raise EngineError(f"lane {hold.lane}: block table differs from the blocks held")
            path = hold.node
            for block in reversed(hold.blocks[: hold.indexed]):
                if path is None or path.block != block:
                    raise EngineError(f"lane {hold.lane}: block {block} is not on the indexed path")
                path = path.parent
        if len(lanes) != len(self.tables):
            raise EngineError("a lane is lost")
        self.pool.check_integrity(holders, self.index.blocks)
        self.index.check_integrity()
