"""GGUF files: metadata and tensor infos, memory-mapped and strictly checked.

A leaf that both ``text`` (tokenizer, chat template) and ``weights`` (tensors) read through. The ``gguf``
package's reader takes seconds on large vocabularies because it makes an array for each string; this one
only finds where Gemma's 262,144 tokens are. Every length in the file is checked against the file's size
before it is used, so a truncated or corrupt file is a ``ModelError`` that names file and key.

    header: "GGUF" version tensor_count metadata_count | metadata | tensor infos | padding | tensor data
"""

from __future__ import annotations

import mmap
import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final, NoReturn, overload

from legato._text import find_strings
from legato.errors import ModelError, UnsupportedModelError

MAX_DIMENSIONS: Final = 4
MAX_NESTING: Final = 4
DEFAULT_ALIGNMENT: Final = 32
_STRING, _ARRAY = 8, 9

# Metadata value type -> struct code of one little-endian scalar.
_SCALARS: Final = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip

# ggml tensor type -> (name, elements in a block, bytes of a block).
TENSOR_TYPES: Final[dict[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2), 28: ("F64", 1, 8),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8),
    2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56),
    34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of the file. ``shape`` is row-major (outermost first), the reverse of GGUF's order."""

    name: str
    format: str  # a name of TENSOR_TYPES, e.g. "Q4_K"
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file
    nbytes: int


class Strings(Sequence[str]):
    """An array of strings, each of which is read when it is asked for: making all of Gemma's takes five
    times as long as finding them. One that is not UTF-8 raises ``ModelError``."""

    def __init__(self, where: str, data: memoryview, starts: array[int], ends: array[int]) -> None:
        """``where``: file and key; ``starts``, ``ends``: uint64, places in ``data``."""
        self._where = where
        self.data = data
        self.starts = starts
        self.ends = ends

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        try:
            return str(self.data[self.starts[index] : self.ends[index]], "utf-8")
        except UnicodeDecodeError as error:
            raise ModelError(f"{self._where}: string {index} is not UTF-8: {error}") from error

    def __iter__(self) -> Iterator[str]:
        data = self.data
        try:
            for start, end in zip(self.starts, self.ends, strict=True):
                yield str(data[start:end], "utf-8")
        except UnicodeDecodeError as error:
            raise ModelError(f"{self._where}: a string is not UTF-8: {error}") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


@dataclass(frozen=True)
class GGUFFile:
    """An open GGUF file. Strings are ``str``, arrays of them ``Strings``, other arrays lists."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    data: memoryview  # the whole file, read-only, memory-mapped


def read_gguf(path: Path) -> GGUFFile:
    """Map the file and read everything but the tensors' data. Raises ``ModelError``."""
    try:
        with open(path, "rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:  # ValueError: the file is empty
        raise ModelError(f"{path}: cannot be read as a GGUF file: {error}") from error
    cursor = _Cursor(path, data)
    tensor_count, metadata_count = _header(cursor)
    metadata = _metadata(cursor, metadata_count)
    return GGUFFile(path, metadata, _tensors(cursor, tensor_count, metadata), data)


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata alone, e.g. ``{"general.architecture": "llama", ...}``."""
    return read_gguf(path).metadata


class _Cursor:
    """A position in the file. ``key`` says what is being read, for messages."""

    def __init__(self, path: Path, data: memoryview) -> None:
        self.path = path
        self.data = data
        self.position = 0
        self.key = "header"

    def fail(self, problem: str) -> NoReturn:
        raise ModelError(f"{self.path}: {self.key}: {problem}")

    def need(self, count: int) -> None:
        left = len(self.data) - self.position
        if count > left:
            self.fail(f"truncated or corrupt: {count} bytes expected, {left} left in the file")

    def scalar(self, code: str) -> Any:
        size = struct.calcsize("<" + code)
        self.need(size)
        value = struct.unpack_from("<" + code, self.data, self.position)[0]
        self.position += size
        return value

    def string(self) -> str:
        length = self.scalar("Q")
        self.need(length)
        start = self.position
        self.position += length
        try:
            return str(self.data[start : self.position], "utf-8")
        except UnicodeDecodeError as error:
            self.fail(f"a string is not UTF-8: {error}")

    def strings(self, count: int) -> Strings:
        """Many strings at once, of which only the places are found."""
        try:
            places = find_strings(self.data, self.position, count)
        except ValueError as error:
            self.fail(f"truncated or corrupt: {error}")
        starts, ends = (array("Q", part) for part in places)
        self.position = ends[-1] if ends else self.position
        return Strings(f"{self.path}: {self.key}", self.data, starts, ends)

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array(depth)
        code = _SCALARS.get(kind)
        if code is None:
            self.fail(f"unknown value type {kind}")
        return self.scalar(code)

    def array(self, depth: int) -> Sequence[Any]:
        if depth == MAX_NESTING:
            self.fail(f"arrays nested more than {MAX_NESTING} deep")
        kind, count = self.scalar("I"), self.scalar("Q")
        if kind == _STRING:
            return self.strings(count)
        if kind == _ARRAY:
            self.need(12 * count)
            return [self.array(depth + 1) for _ in range(count)]
        code = _SCALARS.get(kind)
        if code is None:
            self.fail(f"unknown element type {kind}")
        self.need(struct.calcsize("<" + code) * count)
        layout = struct.Struct(f"<{count}{code}")
        values = list(layout.unpack_from(self.data, self.position))
        self.position += layout.size
        return values


def _header(cursor: _Cursor) -> tuple[int, int]:
    """Returns (number of tensors, number of metadata entries)."""
    if bytes(cursor.data[:4]) != b"GGUF":
        cursor.fail("not a GGUF file (it does not begin with 'GGUF')")
    cursor.position = 4
    version = cursor.scalar("I")
    if version not in (2, 3):
        hint = " (a big-endian file?)" if version & 0xFFFF == 0 else ""
        raise UnsupportedModelError(f"{cursor.path}: GGUF version {version}{hint}; supported: 2, 3")
    return cursor.scalar("Q"), cursor.scalar("Q")


def _metadata(cursor: _Cursor, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for index in range(count):
        cursor.key = f"metadata entry {index}"
        key = cursor.string()
        if key in metadata:
            cursor.fail(f"key {key!r} occurs twice")
        cursor.key = f"key {key!r}"
        metadata[key] = cursor.value(cursor.scalar("I"))
    return metadata


def _tensors(cursor: _Cursor, count: int, metadata: dict[str, Any]) -> dict[str, TensorInfo]:
    infos: list[TensorInfo] = []
    for index in range(count):
        cursor.key = f"tensor info {index}"
        infos.append(_tensor_info(cursor))
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    cursor.key = "key 'general.alignment'"
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        cursor.fail(f"must be a power of two, not {alignment!r}")
    base = -(-cursor.position // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    for info in infos:
        cursor.key = f"tensor {info.name!r}"
        start = base + info.offset
        if info.name in tensors:
            cursor.fail("occurs twice")
        if info.offset % alignment:
            cursor.fail(f"its offset {info.offset} is not a multiple of {alignment}")
        if start + info.nbytes > len(cursor.data):
            cursor.fail(
                f"truncated or corrupt: needs bytes {start} to {start + info.nbytes}, "
                f"the file has {len(cursor.data)}"
            )
        tensors[info.name] = TensorInfo(info.name, info.format, info.shape, start, info.nbytes)
    return tensors


def _tensor_info(cursor: _Cursor) -> TensorInfo:
    """One entry of the table; its offset still counts from the start of the tensor data."""
    name = cursor.string()
    cursor.key = f"tensor {name!r}"
    dimensions = cursor.scalar("I")
    if dimensions > MAX_DIMENSIONS:
        cursor.fail(f"{dimensions} dimensions; at most {MAX_DIMENSIONS} are allowed")
    shape = tuple(cursor.scalar("Q") for _ in range(dimensions))[::-1]
    kind, offset = cursor.scalar("I"), cursor.scalar("Q")
    if kind not in TENSOR_TYPES:
        raise UnsupportedModelError(
            f"{cursor.path}: {cursor.key}: tensor type {kind} is not supported"
        )
    format_name, block, block_bytes = TENSOR_TYPES[kind]
    row = shape[-1] if shape else 1
    if row % block:
        cursor.fail(f"rows of {row} elements cannot be stored as {format_name} (blocks of {block})")
    return TensorInfo(name, format_name, shape, offset, prod(shape) // block * block_bytes)
