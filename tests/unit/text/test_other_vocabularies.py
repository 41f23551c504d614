"""The vocabularies that llama.cpp keeps for its own tests, with ids from the models' own tokenizers.

They are other people's files and not part of this repository: LEGATO_GGUF_VOCABS names the folder
(``models`` in a llama.cpp checkout) with ``ggml-vocab-NAME.gguf``, ``.gguf.inp`` and ``.gguf.out``.
"""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from legato.errors import UnsupportedModelError
from legato.text.gguf_tokenizer import load_gguf_tokenizer

NAMES = [
    "command-r",
    "deepseek-coder",
    "deepseek-llm",
    "falcon",
    "gpt-2",
    "llama-bpe",
    "llama-spm",
    "mpt",
    "phi-3",
    "qwen2",
    "qwen35",
    "refact",
    "starcoder",
]


@pytest.fixture
def folder() -> Path:
    given = os.environ.get("LEGATO_GGUF_VOCABS")
    if not given:
        pytest.skip("SKIPPED LOUDLY: LEGATO_GGUF_VOCABS is not set")
    return Path(given)


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_those_of_the_models_own_tokenizer(name: str, folder: Path) -> None:
    file = folder / f"ggml-vocab-{name}.gguf"
    tokenizer = load_gguf_tokenizer(file)
    texts = file.with_suffix(".gguf.inp").read_text(encoding="utf-8")
    lines = file.with_suffix(".gguf.out").read_text(encoding="utf-8").split("\n")
    for text, line in zip(texts.split("\n__ggml_vocab_test__\n"), lines, strict=False):
        if not unicodedata.is_normalized("NFC", text):
            continue  # the model's own tokenizer composes it first; these ids are llama.cpp's
        expected = [int(id) for id in line.split()]
        assert tokenizer.encode(text, add_special_tokens=False) == expected, repr(text)
        assert tokenizer.decode(expected, at_start=True) == text
    for id in range(tokenizer.vocab_size):
        tokenizer.token_text(id)


def test_other_kinds_are_refused_by_name(folder: Path) -> None:
    for name, kind in (("bert-bge", "bert"), ("nomic-bert-moe", "t5"), ("gemma-4", "gemma4")):
        with pytest.raises(UnsupportedModelError, match=f"ggml-vocab-{name}.*'{kind}'"):
            load_gguf_tokenizer(folder / f"ggml-vocab-{name}.gguf")
