"""PrefixIndex: which block holds the keys and values of which tokens after which prefix.

A tree: a node is one block's tokens, its path from the root the whole prefix. Tokens are
compared, not hashes, so a lookup cannot be wrong. A child's tokens are never the beginning of its
sibling's; siblings are kept sorted, so the longest common beginning is always beside the place
where the wanted tokens would stand. A node with less than a block of tokens is a leaf: the tail of
some sequence, reusable by copy, replaced when a longer tail turns up.

The index knows no scheduling. It relies on blocks being given away children first, which holds
because a sequence holds the whole path to each of its blocks and releases the last one first.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from legato.batch import BLOCK_SIZE, I32
from legato.errors import EngineError

Tokens = tuple[int, ...]


@dataclass(slots=True, eq=False)
class Node:
    """``tokens`` (1 to BLOCK_SIZE of them) are in ``block``, after the tokens of ``parent``."""

    tokens: Tokens
    block: int
    parent: Node | None  # None: a root, which stands for a salt and has no block
    salt: str
    keys: list[Tokens] = field(default_factory=list)  # of the children, sorted
    children: list[Node] = field(default_factory=list)  # in the same order

    @property
    def depth(self) -> int:
        """Blocks from the beginning to this one."""
        depth, node = 0, self
        while node.parent is not None:
            depth, node = depth + 1, node.parent
        return depth

    @property
    def is_full(self) -> bool:
        return len(self.tokens) == BLOCK_SIZE


@dataclass(slots=True)
class Match:
    """What a lookup found: whole blocks to share, and the first ``tail_length`` tokens of
    ``tail`` to copy."""

    nodes: list[Node]
    tail: Node | None = None
    tail_length: int = 0


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens are equal."""
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return length


def common_beginning(a: I32, b: I32) -> int:
    """``common_length``, for many."""
    shorter = min(len(a), len(b))
    differs = a[:shorter] != b[:shorter]
    first = int(differs.argmax()) if shorter else 0
    return first if shorter and differs[first] else shorter


class PrefixIndex:
    """One tree per salt."""

    def __init__(self) -> None:
        self._roots: dict[str, Node] = {}
        self._nodes: dict[int, Node] = {}  # block -> node
        self._last: tuple[str, I32, list[Node]] = ("", np.empty(0, np.int32), [])

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def blocks(self) -> set[int]:
        return set(self._nodes)

    def knows(self, node: Node) -> bool:
        """Whether it is still there."""
        return self._nodes.get(node.block) is node

    def at(self, block: int) -> Node:
        """The node of a block that is in the index."""
        return self._nodes[block]

    def match(self, salt: str, tokens: I32) -> Match:
        """The longest known beginning of ``tokens`` [n]."""
        node = self._roots.get(salt)
        if node is None:
            return Match([])
        match = Match(self._found_last(salt, tokens))
        if match.nodes:
            node = match.nodes[-1]
        first = len(match.nodes) * BLOCK_SIZE
        left = tokens[first:].tolist()
        for start in range(0, len(left), BLOCK_SIZE):
            wanted = tuple(left[start : start + BLOCK_SIZE])
            child, length = self._nearest(node, wanted)
            if child is None or length < BLOCK_SIZE:
                match.tail, match.tail_length = child, length
                break
            match.nodes.append(child)
            node = child
        path = tokens[: len(match.nodes) * BLOCK_SIZE].copy()
        self._last = (salt, path, match.nodes.copy())
        return match

    def _found_last(self, salt: str, tokens: I32) -> list[Node]:
        """What the last lookup found and this one would: those who share a long prompt come together."""
        last, path, nodes = self._last
        if last != salt:
            return []
        nodes = nodes[: common_beginning(path, tokens) // BLOCK_SIZE]
        while nodes and not self.knows(nodes[-1]):  # what leads to a known one is known
            nodes.pop()
        return nodes

    def insert(
        self, parent: Node | None, salt: str, tokens: Tokens, block: int
    ) -> tuple[Node, Node | None]:
        """Enters ``block``, which holds ``tokens`` after ``parent`` (None: at the beginning).

        Returns (node, replaced). If the same tokens, or more, are known already, ``node`` is the
        node that knows them, with another block. ``replaced`` is a shorter tail that this one
        made useless and that is no longer in the index (its block may be this one).
        """
        parent = parent or self._root(salt)
        place = bisect_left(parent.keys, tokens)
        if place < len(parent.keys) and parent.keys[place][: len(tokens)] == tokens:
            return parent.children[place], None
        replaced = None
        if place and tokens[: len(parent.keys[place - 1])] == parent.keys[place - 1]:
            replaced = parent.children[place - 1]
            self.forget(replaced.block)
            parent = self._root(salt) if parent.parent is None else parent
            place -= 1
        if block in self._nodes:  # a tail that its own sequence outgrew differently: impossible
            raise EngineError(f"KV block {block} is in the prefix index twice")
        node = Node(tokens, block, parent, salt)
        parent.keys.insert(place, tokens)
        parent.children.insert(place, node)
        self._nodes[block] = node
        return node, replaced

    def forget(self, block: int) -> None:
        """Removes a block, which must have no children."""
        node = self._nodes.pop(block)
        parent = node.parent
        if node.children or parent is None:
            raise EngineError(f"KV block {block} is given away before its continuation")
        place = bisect_left(parent.keys, node.tokens)
        del parent.keys[place], parent.children[place]
        if parent.parent is None and not parent.children:
            del self._roots[parent.salt]

    def check_integrity(self) -> None:
        """Raises EngineError if the tree and the map disagree, or siblings are not as promised."""
        seen = set()
        for node in self._walk():
            if sorted(node.keys) != node.keys or [c.tokens for c in node.children] != node.keys:
                raise EngineError("prefix index: children are out of order")
            for a, b in zip(node.keys, node.keys[1:], strict=False):
                if b[: len(a)] == a:
                    raise EngineError("prefix index: a tail is the beginning of its sibling")
            if node.parent is not None:
                seen.add(node.block)
                if self._nodes.get(node.block) is not node:
                    raise EngineError(f"prefix index: block {node.block} is lost")
                if node.children and not node.is_full:
                    raise EngineError(f"prefix index: tail {node.block} has a continuation")
        if seen != set(self._nodes):
            raise EngineError("prefix index: a block cannot be reached")

    def _root(self, salt: str) -> Node:
        if salt not in self._roots:
            self._roots[salt] = Node((), -1, None, salt)
        return self._roots[salt]

    def _nearest(self, parent: Node, wanted: Tokens) -> tuple[Node | None, int]:
        """The child that shares the most leading tokens with ``wanted``, and how many."""
        place = bisect_left(parent.keys, wanted)
        if place < len(parent.keys) and parent.keys[place] == wanted:
            return parent.children[place], len(wanted)
        best, length = None, 0
        for neighbour in (place, place - 1):
            if 0 <= neighbour < len(parent.keys):
                common = common_length(parent.keys[neighbour], wanted)
                if common > length:
                    best, length = parent.children[neighbour], common
        return best, length

    def _walk(self) -> Iterator[Node]:
        stack = list(self._roots.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children)
