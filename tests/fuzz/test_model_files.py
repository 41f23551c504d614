"""Damaged model files: each is loaded or refused by name; no process ends, none takes all memory or time.

``scripts/fuzz_models.py`` does the same for as long as one likes.
"""

from __future__ import annotations

import json
import mmap
import struct
import time
from pathlib import Path

import pytest
import tokenizers
from load_in_child import SECONDS as MOST
from load_in_child import Child
from model_fuzz import ModelFuzz, folder_model

from legato import LLM, SamplingParams
from legato.errors import ModelError, RequestError
from legato.gguf_file import read_gguf
from legato.weights import hub

SECONDS = 20.0


def test_what_is_damaged_loads_while_whole(tmp_path: Path) -> None:
    child = Child()
    for model in ModelFuzz(tmp_path, 0).models.values():
        assert child.outcome(model) == "loaded"
    child.close()


@pytest.mark.timeout(200)
def test_damaged_files(tmp_path: Path) -> None:
    end = time.monotonic() + SECONDS
    found = ModelFuzz(tmp_path, seed=2026).run(lambda count: time.monotonic() > end)
    assert not found.wrong, f"{len(found.wrong)} of {found.kinds}:\n" + "\n".join(found.wrong[:5])
    assert found.kinds["refused"] > 20 and found.kinds["loaded"] > 5, found.kinds
    assert found.slowest < MOST


def test_sizes_beyond_the_core_are_refused_by_name(tmp_path: Path) -> None:
    folder = folder_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 2**31 - 1}))
    with pytest.raises(ModelError, match="model: .*4294967294"):
        LLM(str(folder), kv_cache_memory=4 << 20, load_cache="off", threads=1)


def test_a_tokenizer_may_know_more_than_its_model(tmp_path: Path) -> None:
    """A token that the model does not have is the request's fault, and only that request's."""
    folder = folder_model(tmp_path / "model")
    known = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    known.add_tokens(["more"])
    known.save(str(folder / "tokenizer.json"))
    ends = {"eos_token_id": [1, 40, 10**6]}
    (folder / "generation_config.json").write_text(json.dumps(ends))
    llm = LLM(str(folder), kv_cache_memory=4 << 20, load_cache="off", threads=1)
    few = SamplingParams(max_tokens=3, min_tokens=3, temperature=0)
    with pytest.raises(RequestError, match="prompt has token id 40, the model's ids are 0 to 39"):
        llm.generate(["hi more"], few, use_tqdm=False)
    assert len(llm.generate(["hi"], few, use_tqdm=False)[0].outputs[0].token_ids) == 3


def test_the_real_header_damaged(tmp_path: Path) -> None:
    """Lengths, counts and types of SmolLM2's own file, read without its tensors' data being there."""
    real = hub.resolve("smollm2").path
    with open(real, "rb") as file:
        size = real.stat().st_size
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    first = min(info.offset for info in read_gguf(real).tensors.values())
    header = data[:first]
    copy = tmp_path / "real.gguf"
    with open(copy, "wb") as file:
        file.write(header)
        file.truncate(size)  # zeros that take no disk
    assert read_gguf(copy).metadata == read_gguf(real).metadata
    refused = 0
    for step, value in enumerate((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1) * 5):
        for place in range(8 + step, 2400, 97):
            refused += _refused(copy, header, place, value)
    assert refused > 200


def _refused(path: Path, header: bytes, place: int, value: int) -> bool:
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(struct.pack("<Q", value))
    try:
        read_gguf(path)
        return False
    except ModelError as error:
        assert str(error).startswith(f"{path}: ")
        return True
    finally:
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(header[place : place + 8])
