"""The GGUF reader against the gguf package's writer and tables, and against damage of every kind."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from legato.errors import ModelError, UnsupportedModelError
from legato.gguf_file import TENSOR_TYPES, GGUFFile, read_gguf

METADATA: dict[str, Any] = {
    "general.name": "tiny naïve ☕",
    "a.count": 7,
    "a.negative": -3,
    "a.epsilon": 0.5,
    "a.flag": True,
    "a.words": ["", "x", "▁ü", "\n"],
    "a.numbers": [1, -2, 3],
    "a.scores": [0.5, -1.25],
    "a.flags": [True, False],
}
MATRIX = np.arange(3 * 64, dtype=np.float32).reshape(3, 64)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    for key, value in METADATA.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            add = {str: "string", bool: "bool", int: "int32", float: "float32"}[type(value)]
            getattr(writer, f"add_{add}")(key, value)
    writer.add_tensor("matrix", MATRIX)
    writer.add_tensor("halves", MATRIX.astype(np.float16))
    packed = gguf.quantize(MATRIX, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("packed", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_metadata_is_read_back(path: Path) -> None:
    metadata = read_gguf(path).metadata
    assert {key: metadata[key] for key in METADATA} == METADATA
    assert metadata["general.architecture"] == "llama"


def test_tensors_are_where_the_writer_put_them(path: Path) -> None:
    file = read_gguf(path)
    assert file.tensors["matrix"].shape == (3, 64)
    assert file.tensors["matrix"].format == "F32"
    matrix = np.frombuffer(stored(file, "matrix"), np.float32).reshape(3, 64)
    np.testing.assert_array_equal(matrix, MATRIX)
    expected = gguf.quantize(MATRIX, gguf.GGMLQuantizationType.Q8_0).tobytes()
    assert file.tensors["packed"].format == "Q8_0"
    assert file.tensors["packed"].shape == (3, 64)
    assert stored(file, "packed") == expected


def stored(file: GGUFFile, name: str) -> bytes:
    info = file.tensors[name]
    return bytes(file.data[info.offset : info.offset + info.nbytes])


def test_block_sizes_are_those_of_the_format() -> None:
    sizes = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    names = {int(kind): kind.name for kind in gguf.GGMLQuantizationType}
    for kind, (name, block, size) in TENSOR_TYPES.items():
        assert (name, block, size) == (names[kind], *sizes[kind])


def test_every_truncation_is_an_error_that_names_the_file(path: Path) -> None:
    data = path.read_bytes()
    last = max(info.offset + info.nbytes for info in read_gguf(path).tensors.values())
    for length in [*range(1000), *range(1000, last, 29)]:  # what follows is padding
        path.write_bytes(data[:length])
        with pytest.raises(ModelError, match=r"tiny\.gguf"):
            read_gguf(path)


def test_damage_never_crashes(path: Path) -> None:
    data = path.read_bytes()
    chance = random.Random(7)
    for _ in range(800):
        damaged = bytearray(data)
        for _ in range(chance.choice((1, 1, 4))):
            damaged[chance.randrange(1100)] = chance.choice((0, 255, chance.randrange(256)))
        path.write_bytes(damaged)
        try:
            file = read_gguf(path)
        except ModelError as error:
            assert "tiny.gguf" in str(error)
        else:
            for name, info in file.tensors.items():
                assert len(stored(file, name)) == info.nbytes


@pytest.mark.parametrize(
    ("start", "problem"),
    [
        (b"", "empty"),
        (b"PK\x03\x04" + b"\0" * 60, "not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**63), "entry 0.*truncated"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"k", 9, 8, 2**61),
            "'k'.*truncated",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q1sI", 1, b"k", 99),
            "'k'.*type 99",
        ),
    ],
)
def test_what_is_wrong_is_said(path: Path, start: bytes, problem: str) -> None:
    path.write_bytes(start)
    with pytest.raises(ModelError, match=rf"(?s)tiny\.gguf.*{problem}"):
        read_gguf(path)


def test_an_unknown_tensor_type_is_unsupported(path: Path) -> None:
    data = path.read_bytes()
    name = struct.pack("<Q6s", 6, b"matrix")
    at = data.index(name) + len(name) + 4 + 16
    path.write_bytes(data[:at] + struct.pack("<I", 77) + data[at + 4 :])
    with pytest.raises(UnsupportedModelError, match="'matrix'.*77"):
        read_gguf(path)


def test_strings_are_read_when_they_are_asked_for(path: Path) -> None:
    words, expected = read_gguf(path).metadata["a.words"], METADATA["a.words"]
    assert [words[i] for i in range(len(words))] == list(words) == expected
    assert words[-1] == "\n" and words[1:3] == ["x", "▁ü"]
    assert words == expected and words != [*expected, ""]
    with pytest.raises(IndexError):
        words[len(expected)]


def test_a_string_that_is_not_utf8_is_named(path: Path) -> None:
    data = path.read_bytes()
    written = struct.pack("<Q", 5) + "▁ü".encode()
    path.write_bytes(data.replace(written, written[:-2] + b"\xff\xff"))
    words = read_gguf(path).metadata["a.words"]
    assert words[1] == "x"
    with pytest.raises(ModelError, match=r"tiny\.gguf: key 'a\.words': string 2 is not UTF-8"):
        words[2]
    with pytest.raises(ModelError, match=r"tiny\.gguf: key 'a\.words'.*not UTF-8"):
        list(words)
