"""A checkpoint: the configuration and the tensors of a model, memory-mapped, as they are in the files.

Names are those of Hugging Face without the leading ``model.``, e.g. ``layers.3.mlp.up_proj.weight``,
whatever the file format. Formats are GGUF's names (``F32``, ``BF16``, ``Q4_K`` ...).
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from legato.errors import ModelError, UnsupportedModelError
from legato.weights.model_config import ModelConfig

BLOCK_FORMATS: Final[dict[str, tuple[int, int]]] = {
    "F32": (1, 4),
    "F16": (1, 2),
    "BF16": (1, 2),
    "Q8_0": (32, 34),
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
}
"""Supported formats: elements in a block, bytes of a block."""

FLOAT_FORMATS: Final = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Tensor:
    """``data`` is 1-D uint8 on the mapped file: the bytes as stored, row-major."""

    name: str
    stored_name: str  # the name in the file, for messages
    source: Path
    format: str
    shape: tuple[int, ...]  # [rows, columns] or [n]
    data: NDArray[np.uint8]
    pages: mmap.mmap | None = field(default=None, repr=False)
    offset: int = 0  # of the whole tensor, bytes into ``pages``
    stored_bytes: int = 0  # of the whole tensor, in ``pages``

    def values(self) -> NDArray[np.float32]:
        """All elements of an F32, F16 or BF16 tensor, as a new float32 array of its shape."""
        if self.format == "F32":
            flat = self.data.view(np.float32)
        elif self.format == "F16":
            flat = self.data.view(np.float16).astype(np.float32)
        elif self.format == "BF16":
            flat = (self.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            raise UnsupportedModelError(
                f"{self.source}: tensor {self.stored_name!r} is stored as {self.format}; "
                f"supported here: {', '.join(FLOAT_FORMATS)}"
            )
        return np.array(flat.reshape(self.shape), dtype=np.float32)

    def row_range(self, begin: int, end: int) -> Tensor:
        """Rows [begin, end) of the same bytes."""
        row_bytes = self.data.nbytes // self.shape[0]
        data = self.data[begin * row_bytes : end * row_bytes]
        return replace(self, shape=(end - begin, *self.shape[1:]), data=data)

    def release(self) -> None:
        """Let the system take back the pages of the file: the weights were copied by packing.

        The bytes stay readable (they would be mapped in again).
        """
        if self.pages is None or not self.stored_bytes:
            return
        start = self.offset - self.offset % mmap.PAGESIZE
        self.pages.madvise(mmap.MADV_DONTNEED, start, self.offset + self.stored_bytes - start)


@dataclass(frozen=True)
class Checkpoint:
    """What ``models`` builds a program from."""

    source: Path
    config: ModelConfig
    tensors: dict[str, Tensor]
    eos_token_ids: list[int]
    default_sampling: dict[str, Any]  # generation_config.json

    @property
    def weight_files(self) -> list[Path]:
        return sorted({tensor.source for tensor in self.tensors.values()})

    def tensor(self, name: str) -> Tensor:
        tensor = self.tensors.get(name)
        if tensor is None:
            raise ModelError(f"{self.source}: the tensor {name!r} is missing")
        return tensor
