"""The packed matrices of a model in a file: the second start reads them and packs nothing.

The file is read into memory rather than mapped: the page cache has pages of 4 KB, and decoding reads
all weights for each token. What makes a file stale: its sources, the quantization that was asked for, and the kernels'
layout, which a probe packs anew at each start, so that no change of the packing can be forgotten.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from legato.kept_file import Keeper, Kept, identity

if TYPE_CHECKING:
    from legato import _native as native
    from legato.weights.tensor import Checkpoint

log = logging.getLogger(__name__)
SUFFIX: Final = ".legato-packed"
LINE: Final = 64  # matrices begin at multiples of it
PROBES: Final = ((5, 512), (48, 256), (200, 1024))  # rows, columns


@dataclass(frozen=True)
class Entry:
    """A matrix in the file. ``offset`` counts from the payload's start."""

    format: str
    rows: int
    columns: int
    offset: int
    bytes: int
    checksum: str  # hexadecimal: JSON's numbers are no 64-bit integers everywhere


class PackedFile:
    """What is kept of one model's weights, and what ``lower`` packs meanwhile."""

    def __init__(self, keeper: Keeper, key: dict[str, Any], threads: int) -> None:
        self._keeper, self._key = keeper, key
        self._weights: native.PackedWeights | None = None
        self._entries: dict[str, Entry] = {}
        self._used: dict[
            str, tuple[int, str, int, int]
        ] = {}  # name -> matrix, format, rows, columns
        self._is_stale = False
        kept = keeper.read(key)
        if kept is not None:
            self._open(kept, threads)

    def matrix(
        self, program: native.Program, name: str, format: str, rows: int, columns: int
    ) -> int | None:
        """The matrix of ``program`` that is kept under ``name``; None: it has to be packed."""
        entry = self._entries.get(name)
        if entry is None or self._weights is None:
            return None
        if (entry.format, entry.rows, entry.columns) != (format, rows, columns):
            return None
        index = program.packed_matrix(self._weights, format, rows, columns, entry.offset)
        self._used[name] = (index, format, rows, columns)
        return index

    def packed(self, name: str, index: int, format: str, rows: int, columns: int) -> None:
        """Matrix ``index`` was packed just now."""
        self._used[name] = (index, format, rows, columns)
        self._is_stale = True

    def save(self, program: native.Program) -> None:
        """Keeps all matrices of ``program``, if one of them had to be packed."""
        if not self._is_stale or not self._keeper.paths:
            return
        from legato import _native as native

        entries: dict[str, Any] = {}
        end = 0
        for name, (index, format, rows, columns) in self._used.items():
            data = program.packed(index)
            sum = f"{native.checksum(data):016x}"
            entries[name] = asdict(Entry(format, rows, columns, end, data.nbytes, sum))
            end += -(-data.nbytes // LINE) * LINE
        header = {"entries": entries, "payload_bytes": end}
        self._keeper.write(self._key, header, lambda: self._payload(program))

    def _payload(self, program: native.Program) -> Iterator[Any]:
        for index, *_ in self._used.values():
            data = program.packed(index)
            yield data
            yield bytes(-data.nbytes % LINE)

    def _open(self, kept: Kept, threads: int) -> None:
        """Nothing is taken from a file of which one byte is wrong."""
        from legato import _native as native

        size = kept.header["payload_bytes"]
        try:
            weights = native.PackedWeights(str(kept.path), kept.offset, size, threads)
            entries = {name: Entry(**entry) for name, entry in kept.header["entries"].items()}
            view = weights.view()
            for name, entry in entries.items():
                data = view[entry.offset : entry.offset + entry.bytes]
                if f"{native.checksum(data):016x}" != entry.checksum:
                    raise ValueError(f"{name} is damaged")
        except (RuntimeError, TypeError, ValueError) as error:
            log.warning("%s is not used, but made anew: %s", kept.path, error)
            return
        self._weights, self._entries = weights, entries


def packed_file(
    setting: str, source: Path, checkpoint: Checkpoint, quantization: str, isa: str, threads: int
) -> PackedFile:
    """``setting``: ``EngineConfig.load_cache``; ``source``: the model's file or folder."""
    suffix = SUFFIX if quantization == "none" else f".{quantization}{SUFFIX}"
    keeper = Keeper(setting, source, suffix)
    key: dict[str, Any] = {}
    if keeper.paths:
        key = {
            "sources": [identity(path) for path in checkpoint.weight_files],
            "quantization": quantization,
            "layout": layout(isa),
        }
    return PackedFile(keeper, key, threads)


def layout(isa: str) -> str:
    """A hash of what this build packs: of every format, matrices of several shapes."""
    from legato import _native as native
    from legato.weights.tensor import BLOCK_FORMATS

    program = native.Program(isa=isa, threads=1, max_tokens=1, max_logit_rows=1)
    digest = blake2b(digest_size=16)
    for format in native.FORMATS:
        elements, nbytes = BLOCK_FORMATS[format]
        for rows, columns in PROBES:
            size = rows * columns // elements * nbytes
            data = (np.arange(size, dtype=np.uint32) * np.uint32(2654435761) >> 24).astype(np.uint8)
            packed = program.packed(program.matrix(format, rows, columns, data))
            digest.update(f"{format} {rows} {columns} {native.checksum(packed)};".encode())
    return digest.hexdigest()
