"""Tokenizers rebuilt from GGUF metadata, against llama.cpp's ids for the real models' files."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import corpus
import pytest

from legato.errors import ModelError, UnsupportedModelError
from legato.text.gguf_tokenizer import build_gguf_tokenizer
from legato.text.pretokenizers import RECIPES
from legato.text.spelling import BYTE_ALPHABET
from legato.text.vocabulary import Tokenizer

HERE = Path(__file__).parent


def golden(name: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((HERE / name).read_text(encoding="utf-8"))
    assert {case["text"] for case in cases} == set(corpus.ALL_TEXTS), "run make_golden.py"
    return cases


def check_golden(tokenizer: Tokenizer, cases: list[dict[str, Any]], except_for: str = "") -> None:
    for case in cases:
        text, parse = case["text"], case["parse_special"]
        if except_for and except_for in text and not parse:
            continue
        ids = tokenizer.encode(text, add_special_tokens=False, parse_special=parse)
        assert ids == case["ids"], (text, parse)


def test_smollm2_gives_llama_cpps_ids(smollm2: Tokenizer) -> None:
    check_golden(smollm2, golden("golden_smollm2.json"))


def test_gemma3_gives_llama_cpps_ids(gemma3: Tokenizer) -> None:
    # The file says that </s> is HTML, always a token; llama.cpp overrides the file by its name.
    check_golden(gemma3, golden("golden_gemma3.json"), except_for="</s>")


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_text_comes_back_and_every_id_decodes(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    for text in corpus.ALL_TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        joined = b"".join(tokenizer.token_bytes(id) for id in ids)
        assert tokenizer.decode(ids, skip_special_tokens=False) == joined.decode("utf-8", "replace")
        if "▁" not in text and "\x00" not in text:  # SmolLM2 has no token for some control bytes
            assert joined == text.encode()
    for id in range(tokenizer.vocab_size):
        assert tokenizer.token_bytes(id)
        assert isinstance(tokenizer.token_text(id), str)
    assert tokenizer.token_bytes(tokenizer.vocab_size) == b""


def test_special_ids_and_ends(smollm2: Tokenizer, gemma3: Tokenizer) -> None:
    assert smollm2.vocab_size == 49152
    assert smollm2.special_ids == frozenset(range(17))
    assert smollm2.eos_token_ids[0] == 2
    assert smollm2.bos_token_id == 1
    assert gemma3.vocab_size == 262144
    assert gemma3.eos_token_ids == [1, 106]  # <eos>, <end_of_turn>
    newlines, spaces = 108, 138  # user-defined: always tokens, never hidden
    assert not {newlines, spaces} & gemma3.special_ids


def test_bos_is_added_as_the_file_says_and_never_twice(
    smollm2: Tokenizer, gemma3: Tokenizer
) -> None:
    assert smollm2.encode("Hi") == smollm2.encode("Hi", add_special_tokens=False)
    assert gemma3.encode("Hi") == [2, *gemma3.encode("Hi", add_special_tokens=False)]
    assert gemma3.encode("<bos>Hi") == gemma3.encode("Hi")
    assert gemma3.encode("<bos>Hi", parse_special=False)[:2] != [2, 2]
    assert gemma3.encode("") == [2]


def test_special_tokens_can_be_read_as_text(smollm2: Tokenizer) -> None:
    parsed = smollm2.encode("<|im_end|>")
    assert parsed == [2]
    spelled = smollm2.encode("<|im_end|>", parse_special=False)
    assert not set(spelled) & smollm2.special_ids
    assert smollm2.decode(spelled) == "<|im_end|>"
    assert smollm2.decode(parsed) == ""
    assert smollm2.decode(parsed, skip_special_tokens=False) == "<|im_end|>"


class TestBrokenMetadata:
    """Each is an error that names the file and the key."""

    TOKENS = ["a", "b", "ab", "<s>"]

    def metadata(self, **changes: Any) -> dict[str, Any]:
        keys = {
            "model": "gpt2",
            "pre": "gpt-2",
            "tokens": self.TOKENS,
            "token_type": [1, 1, 1, 3],
            "merges": ["a b"],
            "bos_token_id": 3,
        } | changes
        return {f"tokenizer.ggml.{key}": value for key, value in keys.items() if value is not None}

    def test_it_works_unbroken(self) -> None:
        tokenizer = build_gguf_tokenizer(Path("m.gguf"), self.metadata())
        assert tokenizer.encode("abab<s>a") == [2, 2, 3, 0]

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("model", None),
            ("model", 3),
            ("tokens", None),
            ("tokens", []),
            ("tokens", ["a", "a", "ab", "<s>"]),
            ("tokens", [1, 2, 3, 4]),
            ("token_type", [1]),
            ("token_type", ["x", "x", "x", "x"]),
            ("merges", None),
            ("merges", ["a q"]),
            ("merges", ["ab"]),
            ("bos_token_id", 4),
            ("eos_token_id", -1),
            ("add_bos_token", 1),
        ],
    )
    def test_malformed(self, key: str, value: Any) -> None:
        with pytest.raises(ModelError, match=rf"m\.gguf: key 'tokenizer\.ggml\.{key}'"):
            build_gguf_tokenizer(Path("m.gguf"), self.metadata(**{key: value}))

    @pytest.mark.parametrize(("key", "value"), [("model", "rwkv"), ("pre", "no-such-cut")])
    def test_unsupported(self, key: str, value: str) -> None:
        match = rf"m\.gguf: key 'tokenizer\.ggml\.{key}': .*'{value}'"
        with pytest.raises(UnsupportedModelError, match=match):
            build_gguf_tokenizer(Path("m.gguf"), self.metadata(**{key: value}))

    def test_sentencepiece_needs_scores(self) -> None:
        with pytest.raises(ModelError, match="scores"):
            build_gguf_tokenizer(Path("m.gguf"), self.metadata(model="llama"))


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_keeps_every_byte(name: str) -> None:
    """However the text is cut, nothing is lost or reordered."""
    letters = list(BYTE_ALPHABET)
    metadata = {"model": "gpt2", "pre": name, "tokens": [*letters, "he", "Ġt"], "merges": ["h e"]}
    tokenizer = build_gguf_tokenizer(
        Path("m.gguf"), {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    )
    for text in corpus.ALL_TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        expected = unicodedata.normalize("NFC", text) if RECIPES[name].nfc else text
        assert tokenizer.decode(ids) == expected
