"""Packed weights that are kept: the same bits as packing, and nothing taken from a damaged file."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_files import write_folder, write_gguf

from legato import _native as native
from legato.config import EngineConfig
from legato.models.loading import LoadedModel, load
from legato.weights import packed_file
from legato.weights.gguf import open_gguf
from legato.weights.tensor import BLOCK_FORMATS

MATRICES = 2 + 2 * 4  # table and head, and in each layer: qkv, o, gate and up, down


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return write_gguf(folder / "m.gguf")


def kept(model: Path) -> Path:
    return model.with_name(model.name + packed_file.SUFFIX)


def loaded(model: Path, **settings: str) -> LoadedModel:
    return load(EngineConfig(model=str(model), max_model_len=64, **settings))  # type: ignore[arg-type]


def packed_bytes(model: LoadedModel) -> list[bytes]:
    return [bytes(model.program.packed(index)) for index in range(MATRICES)]


class Packing:
    """Counts the matrices that are packed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from legato.models.lower import Lowering

        self.count = 0
        original = Lowering.pack_anew

        def counted(lowering: Lowering, *args: object, **options: object) -> int:
            self.count += 1
            return original(lowering, *args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(Lowering, "pack_anew", counted)

    def of(self, work: Callable[[], LoadedModel]) -> int:
        self.count = 0
        work()
        return self.count


@pytest.fixture
def packing(monkeypatch: pytest.MonkeyPatch) -> Packing:
    return Packing(monkeypatch)


def test_the_second_start_packs_nothing_and_has_the_same_bits(
    model: Path, packing: Packing
) -> None:
    plain = packed_bytes(loaded(model, load_cache="off"))
    assert not kept(model).exists()
    assert packing.of(lambda: loaded(model)) == MATRICES
    second = loaded(model)
    assert packing.of(lambda: loaded(model)) == 0
    assert packed_bytes(second) == plain
    assert second.info.weight_bytes == loaded(model, load_cache="off").info.weight_bytes
    assert [path.name for path in model.parent.iterdir() if "part" in path.name] == []


def test_a_start_that_packs_nothing_writes_nothing(model: Path) -> None:
    loaded(model)
    written = kept(model).stat()
    loaded(model)
    again = kept(model).stat()
    assert (again.st_ino, again.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)


def test_a_matrix_of_another_format_or_shape_is_not_the_one_that_is_kept(model: Path) -> None:
    program = loaded(model).program
    file = packed_file.packed_file("auto", model, open_gguf(model), "none", program.isa, 1)
    name, one = next(iter(file._entries.items()))
    other = "F32" if one.format != "F32" else "F16"
    assert file.matrix(program, name, one.format, one.rows, one.columns) is not None
    assert file.matrix(program, name, other, one.rows, one.columns) is None
    assert file.matrix(program, name, one.format, one.rows - 1, one.columns) is None
    assert file.matrix(program, name, one.format, one.rows, one.columns // 2) is None


def test_weights_are_told_from_others_but_not_from_a_copy(tmp_path: Path) -> None:
    one = write_folder(tmp_path / "model")
    before = loaded(one).info.weights
    weights = one / "model.safetensors"
    copy = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(copy)
    os.utime(weights, (1, 1))
    assert loaded(one).info.weights == before
    assert loaded(one, quantization="int8").info.weights != before
    middle = len(copy) // 2
    weights.write_bytes(copy[:middle] + bytes(512) + copy[middle + 512 :])
    assert loaded(one).info.weights != before


@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
def test_folders_and_quantised_weights(tmp_path: Path, packing: Packing, quantization: str) -> None:
    folder = write_folder(tmp_path / "model")
    plain = packed_bytes(loaded(folder, quantization=quantization, load_cache="off"))
    for count in (MATRICES, 0):
        assert packing.of(lambda: loaded(folder, quantization=quantization)) == count
    assert packed_bytes(loaded(folder, quantization=quantization)) == plain
    assert packing.of(lambda: loaded(folder, quantization="none")) == (
        0 if quantization == "none" else MATRICES
    )


def test_two_starts_at_once_leave_one_sound_file(model: Path, packing: Packing) -> None:
    code = (
        "import sys; from legato.config import EngineConfig; from legato.models.loading import load;"
        "load(EngineConfig(model=sys.argv[1], max_model_len=64))"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(model)]) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert sorted(path.name for path in model.parent.iterdir()) == ["m.gguf", kept(model).name]
    assert packing.of(lambda: loaded(model)) == 0


def flip(at: float) -> Callable[[Path], None]:
    """One bit, at a share of the file's length."""

    def damage(path: Path) -> None:
        place = int(at * (path.stat().st_size - 1))
        with open(path, "r+b") as file:
            file.seek(place)
            (byte,) = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ 0x10]))

    return damage


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def lengthen(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"\0")


def empty(path: Path) -> None:
    os.truncate(path, 0)


def foreign(path: Path) -> None:
    path.write_bytes(b"GGUF" + bytes(10_000))


@pytest.mark.parametrize(
    "damage",
    [flip(0.0), flip(0.0001), flip(0.3), flip(0.77), flip(0.9999), cut, lengthen, empty, foreign],
    ids=["magic", "header", "early", "middle", "end", "cut", "lengthened", "empty", "foreign"],
)
def test_a_damaged_file_is_told_of_and_made_anew(
    model: Path,
    packing: Packing,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    loaded(model)
    sound = kept(model).read_bytes()
    damage(kept(model))
    with caplog.at_level(logging.WARNING):
        assert packing.of(lambda: loaded(model)) == MATRICES
    assert kept(model).name in caplog.text and "made anew" in caplog.text
    assert kept(model).read_bytes() == sound
    assert packing.of(lambda: loaded(model)) == 0


def test_a_changed_model_is_packed_anew(model: Path, packing: Packing) -> None:
    loaded(model)
    os.utime(model, ns=(0, 1))
    assert packing.of(lambda: loaded(model)) == MATRICES
    assert packing.of(lambda: loaded(model)) == 0


def test_another_layout_is_packed_anew(
    model: Path, packing: Packing, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded(model)
    monkeypatch.setattr(packed_file, "layout", lambda isa: "another")
    assert packing.of(lambda: loaded(model)) == MATRICES


def test_a_file_that_vanishes_while_it_is_used_does_no_harm(model: Path) -> None:
    """Mapped, the weights would be gone with it."""
    loaded(model)
    second = loaded(model)
    before = packed_bytes(second)
    os.truncate(kept(model), 0)
    assert packed_bytes(second) == before


def test_a_folder_may_be_chosen(model: Path, tmp_path: Path, packing: Packing) -> None:
    loaded(model, load_cache=str(tmp_path / "kept"))
    assert not kept(model).exists() and len([*(tmp_path / "kept").iterdir()]) == 1
    assert packing.of(lambda: loaded(model, load_cache=str(tmp_path / "kept"))) == 0


def test_where_nothing_can_be_written_loading_goes_on(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    loaded(model, load_cache=str(tmp_path / "file"))
    assert "is not kept" in caplog.text


@pytest.mark.parametrize("format", native.FORMATS)
def test_the_layout_knows_each_byte_of_each_format(
    format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A packing that differs in one byte of one format has another layout."""
    isa = native.supported_isas()[-1]
    elements, nbytes = BLOCK_FORMATS[format]
    real = native.checksum
    seen = packed_file.layout(isa)
    assert seen == packed_file.layout(isa)
    program = native.Program(isa=isa, threads=1, max_tokens=1, max_logit_rows=1)
    data = np.arange(16 * 512 // elements * nbytes, dtype=np.uint8)
    packed = np.array(program.packed(program.matrix(format, 16, 512, data)))
    sums = {real(packed)}
    for place in range(0, len(packed), 97):
        packed[place] ^= 1
        sums.add(real(packed))
        packed[place] ^= 1
    assert len(sums) == 1 + len(range(0, len(packed), 97))
    monkeypatch.setattr(native, "FORMATS", tuple(f for f in native.FORMATS if f != format))
    assert packed_file.layout(isa) != seen


def test_refusals_name_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(4096))
    with pytest.raises(RuntimeError, match="nothing"):
        native.PackedWeights(str(tmp_path / "nothing"), 0, 64, 2)
    with pytest.raises(RuntimeError, match="weights"):
        native.PackedWeights(str(path), 64, 4096, 2)
    weights = native.PackedWeights(str(path), 0, 4096, 2)
    program = native.Program(
        isa=native.supported_isas()[-1], threads=1, max_tokens=1, max_logit_rows=1
    )
    for arguments, word in (
        (("Q4_1", 16, 64, 32), "offset"),
        (("Q4_1", 16, 64, -64), "offset"),
        (("Q4_1", 16, 64, 4096), "offset"),
        (("Q4_1", 1600, 64, 0), "offset"),
        (("Q4_1", 16, 65, 0), "columns"),
        (("Q9", 16, 64, 0), "format"),
        (("Q4_1", 0, 64, 0), "rows"),
    ):
        with pytest.raises(ValueError, match=word):
            program.packed_matrix(weights, *arguments)
