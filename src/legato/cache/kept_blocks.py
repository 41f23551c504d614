"""Cached blocks in a file, so that a prefix need not be computed again after a restart.

    header   the key (what the blocks were computed by), and of each block: its parent, salt, tokens, checksum
    payload  the blocks' bytes, one after the other

The most recently used blocks come first, so parents come before their children, and a bound cuts off what
was used longest ago. A restored block enters the cache as the one to be given away first, behind its
parent, and takes none that is not free: restoring takes nothing from anybody, and children still leave
before their parents.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from legato import kept_file
from legato.batch import BLOCK_SIZE
from legato.cache.kv import KVCache
from legato.cache.prefix import Node

Checksum = Callable[[Any], int]
HEADER_BYTES: Final = 200
"""Of a block's entry in the header, at most: what bounds their number there."""


class Blocks(Protocol):
    """Whose memory the pool is (a native Program); used between its steps."""

    def kv_block_bytes(self) -> int: ...

    def read_kv_block(self, block: int) -> bytes: ...

    def write_kv_block(self, block: int, data: NDArray[np.uint8]) -> None: ...


class AbandonedError(Exception):
    """Something more urgent came while a file was written."""


@dataclass(frozen=True)
class KeptBlock:
    """``parent``: number of an earlier block in the file; -1: the block begins a prefix."""

    parent: int
    salt: str
    tokens: tuple[int, ...]
    checksum: int


class KeptBlocks:
    """An open file whose header is sound. ``blocks``: each, in the file's order."""

    def __init__(self, kept: kept_file.Kept, block_bytes: int) -> None:
        self._offset, self._bytes = kept.offset, block_bytes
        self.blocks = parse(kept.header, block_bytes)
        self._file = open(kept.path, "rb")  # noqa: SIM115  (closed by close)

    def close(self) -> None:
        self._file.close()

    def read(self, number: int, into: NDArray[np.uint8], checksum: Checksum) -> None:
        """A block's bytes. Raises ValueError if they are not what was written, OSError."""
        start = self._offset + number * self._bytes
        count = os.preadv(self._file.fileno(), [into.data], start)
        if count != self._bytes or checksum(into) != self.blocks[number].checksum:
            raise ValueError(f"block {number} is damaged")

    def verify(self, checksum: Checksum) -> None:
        """Reads everything. Raises ValueError, OSError."""
        place = np.empty(self._bytes, np.uint8)
        for number in range(len(self.blocks)):
            self.read(number, place, checksum)


def parse(header: dict[str, Any], block_bytes: int) -> list[KeptBlock]:
    """Raises ValueError for what no version has written."""
    try:
        salts = header["salts"]
        blocks = [
            KeptBlock(parent, salts[salt], tuple(tokens), int(checksum, 16))
            for parent, salt, tokens, checksum in header["blocks"]
        ]
        for number, block in enumerate(blocks):
            is_root = block.parent == -1
            if not (is_root or 0 <= block.parent < number) or not isinstance(block.salt, str):
                raise ValueError("a block stands before its parent")
            if not 1 <= len(block.tokens) <= BLOCK_SIZE:
                raise ValueError("a block has no tokens, or too many")
        if header["payload_bytes"] != len(blocks) * block_bytes:
            raise ValueError("it has not as many bytes as blocks")
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"its header is not understood ({type(error).__name__})") from None
    return blocks


def restore(cache: KVCache, kept: KeptBlocks, memory: Blocks, checksum: Checksum) -> Iterator[bool]:
    """Restores one block at each step of the iterator: whether it did. Ends when no block is free.

    Anything may happen to the cache between two steps. Raises ValueError, OSError: nothing of a damaged
    block has entered the cache.
    """

    data = np.empty(memory.kv_block_bytes(), np.uint8)

    def fill(number: int, block: int) -> None:
        kept.read(number, data, checksum)
        memory.write_kv_block(block, data)

    nodes: list[Node | None] = []
    for number, block in enumerate(kept.blocks):
        if not cache.pool.num_free:
            return
        parent = nodes[block.parent] if block.parent >= 0 else None
        is_orphan = block.parent >= 0 and (parent is None or not cache.index.knows(parent))
        if is_orphan or (parent is not None and not parent.is_full):
            nodes.append(None)
        else:
            nodes.append(cache.restore(parent, block.salt, block.tokens, partial(fill, number)))
        yield nodes[-1] is not None


def save(
    path: Path,
    key: dict[str, Any],
    cache: KVCache,
    memory: Blocks,
    checksum: Checksum,
    *,
    most_bytes: int,
    is_urgent: Callable[[], bool],
) -> int:
    """Writes what a prefix may find, the most recently used first, as far as it fits. Returns how many
    blocks. Raises OSError, and AbandonedError as soon as ``is_urgent()``; the old file stays then."""
    width = memory.kv_block_bytes()
    most = min(most_bytes // width, kept_file.MAX_HEADER // HEADER_BYTES)
    nodes = cache.known(most)
    numbers = {id(node): number for number, node in enumerate(nodes)}
    salts = {node.salt: 0 for node in nodes}
    salts = {salt: number for number, salt in enumerate(salts)}
    entries = []
    for node in nodes:
        if is_urgent():
            raise AbandonedError
        sum = checksum(memory.read_kv_block(node.block))
        above = node.parent
        parent = -1 if above is None or above.parent is None else numbers[id(above)]
        entries.append([parent, salts[node.salt], list(node.tokens), f"{sum:x}"])
    header = {
        "key": key,
        "salts": list(salts),
        "blocks": entries,
        "payload_bytes": len(nodes) * width,
    }

    def payload() -> Iterator[Any]:
        for node in nodes:
            if is_urgent():
                raise AbandonedError
            yield memory.read_kv_block(node.block)

    kept_file.write(path, header, payload(), is_private=True)
    return len(nodes)
