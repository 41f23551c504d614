"""Files that were cut off or damaged: a ModelError that names the file, never anything else."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_files import LLAMA, Notes, write_folder, write_gguf

from legato.errors import ModelError
from legato.models.lower import lower
from legato.models.registry import read_spec
from legato.weights import checkpoint
from legato.weights.files import local_files


def load(path: Path) -> Notes:
    """Everything that loading does, but for the native program."""
    opened = checkpoint.open(local_files(path))
    notes = Notes()
    lower(read_spec(opened.config), opened, notes)  # type: ignore[arg-type]
    return notes


def outcome(path: Path, named: Path) -> bool:
    """True: it loaded; False: a ModelError that names the file."""
    try:
        load(path)
    except ModelError as error:
        assert str(named) in str(error), error
        return False
    return True


def header_bytes(path: Path) -> int:
    if path.suffix == ".gguf":
        return path.stat().st_size - 40 * 64 * 4  # well into the tensors
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


@pytest.fixture(params=["gguf", "safetensors"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """(what to load, the file to damage)"""
    if request.param == "gguf":
        path = write_gguf(tmp_path / "tiny.gguf")
        return path, path
    folder = write_folder(tmp_path / "tiny")
    return folder, folder / "model.safetensors"


def damage(path: Path, file: Path, versions: list[bytes], named: Path) -> int:
    """How many of the damaged versions loaded all the same."""
    loaded = 0
    for version in versions:
        file.unlink()  # a new inode: the old one may still be mapped
        file.write_bytes(version)
        loaded += outcome(path, named)
    return loaded


def test_intact_files_load(model: tuple[Path, Path]) -> None:
    assert len(load(model[0]).named("attention")) == 2


def test_every_truncation_of_the_header(model: tuple[Path, Path]) -> None:
    path, file = model
    data = file.read_bytes()
    ends = [*range(0, min(header_bytes(file), 6000), 3), len(data) - 1, len(data) // 2]
    assert damage(path, file, [data[:end] for end in ends], path) == 0


def test_flipped_bits_of_the_header(model: tuple[Path, Path]) -> None:
    path, file = model
    data = file.read_bytes()
    dice = random.Random(7)
    versions = []
    for position in range(min(header_bytes(file), 5000)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << dice.randrange(8)
        versions.append(bytes(damaged))
    damage(path, file, versions, path)  # some bits only change a name nobody reads, or a constant


def test_appended_bytes_are_noticed_in_safetensors(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "tiny")
    file = folder / "model.safetensors"
    assert damage(folder, file, [file.read_bytes() + b"\0"], folder) == 0


ODD_VALUES: list[Any] = [
    "8", [], {}, True, False, None, -1, 0, 1.5, 10**12, 10**400, 1e400, float("nan"), [None], {"a": 1},
]  # fmt: skip


@pytest.mark.parametrize("key", LLAMA)
def test_odd_config_values(tmp_path: Path, key: str) -> None:
    folder = write_folder(tmp_path / "tiny")
    for value in ODD_VALUES:
        (folder / "config.json").write_text(json.dumps(LLAMA | {key: value}))
        outcome(folder, folder)


@pytest.mark.parametrize(
    "key",
    [k for k in LLAMA if k not in ("architectures", "rope_theta", "eos_token_id", "tie_word_embeddings", "num_key_value_heads")],
)  # fmt: skip
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    config = {k: v for k, v in LLAMA.items() if k != key}
    folder = write_folder(tmp_path / "tiny", config)
    with pytest.raises(ModelError, match=rf"config\.json: {key}: the key is missing"):
        load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"a": \x00}', "\xff"])
def test_config_that_is_not_an_object(tmp_path: Path, text: str) -> None:
    folder = write_folder(tmp_path / "tiny")
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"config\.json"):
        load(folder)


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def index(weight_map: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        text = json.dumps({"weight_map": weight_map})
        (folder / "model.safetensors.index.json").write_text(text)

    return write


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_weights, "neither model.safetensors nor"),
        (index({}), "weight_map: the key is missing or empty"),
        (index([1]), "weight_map"),
        (index({"a": "../model.safetensors"}), "is not a file name"),
        (index({"a": 7}), "is not a file name"),
        (index({"a": "gone.safetensors"}), r"gone\.safetensors: cannot be read"),
        (index({"a": "model.safetensors"}), "the tensor 'a' is missing"),
    ],
)
def test_spoilt_folders(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    folder = write_folder(tmp_path / "tiny")
    spoil(folder)
    with pytest.raises(ModelError, match=message):
        load(folder)
