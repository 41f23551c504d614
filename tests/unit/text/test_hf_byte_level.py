"""Byte-level tokenizer.json files read natively: the ids of the ``tokenizers`` library, or left to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import corpus
import pytest
import tokenizers
from against_library import check, jumbles
from tokenizers import AddedToken, normalizers, pre_tokenizers, processors
from trained import train_byte_level

from legato.text.hf_byte_level import read_byte_level
from legato.text.pretokenizers import RECIPES
from legato.text.tokenizer import load_tokenizer

Change = Callable[[dict[str, Any]], object]


def trained(cuts: list[pre_tokenizers.PreTokenizer]) -> tokenizers.Tokenizer:
    """With what a file of Llama 3's or Qwen's has around its vocabulary."""
    tokenizer = train_byte_level(pre_tokenizers.Sequence(cuts))
    tokenizer.add_special_tokens([AddedToken("<|later|>", special=True, normalized=False)])
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)]),
        ]
    )
    return tokenizer


def split(name: str) -> list[pre_tokenizers.PreTokenizer]:
    cuts = [
        pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
        for pattern in RECIPES[name].patterns
    ]
    return [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]


def llama() -> tokenizers.Tokenizer:
    tokenizer = trained(split("llama-bpe"))
    state = json.loads(tokenizer.to_str())
    state["model"]["ignore_merges"] = True
    state["model"]["merges"] = [
        " ".join(merge) for merge in state["model"]["merges"]
    ]  # older files
    return tokenizers.Tokenizer.from_str(json.dumps(state))


def qwen() -> tokenizers.Tokenizer:
    tokenizer = trained(split("qwen2"))
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def smollm() -> tokenizers.Tokenizer:
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return trained([pre_tokenizers.Digits(individual_digits=True), letters])


def gpt2() -> tokenizers.Tokenizer:
    tokenizer = train_byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    state = json.loads(tokenizer.to_str())
    state["truncation"] = {
        "max_length": 3,
        "strategy": "LongestFirst",
        "stride": 0,
        "direction": "Right",
    }
    for token in state["added_tokens"]:
        token["normalized"] = True
    return tokenizers.Tokenizer.from_str(json.dumps(state))


def deepseek() -> tokenizers.Tokenizer:
    tokenizer = trained(split("deepseek-v3"))
    tokenizer.normalizer = normalizers.Sequence([])
    return tokenizer


@pytest.mark.parametrize(
    "make", [llama, qwen, smollm, gpt2, deepseek], ids=lambda make: make.__name__
)
def test_the_ids_are_the_librarys(make: Callable[[], tokenizers.Tokenizer], tmp_path: Path) -> None:
    library = make()
    library.save(str(tmp_path / "tokenizer.json"))
    assert read_byte_level(tmp_path / "tokenizer.json") is not None
    ours = load_tokenizer(tmp_path)
    library.no_truncation()
    library.encode_special_tokens = False
    for text in corpus.ALL_TEXTS:
        framed = library.encode(text).ids
        assert text.startswith("<s>") or ours.encode(text) == framed, text
    library.post_processor = None  # it would trim offsets, which `check` compares
    for text in [*corpus.ALL_TEXTS, *jumbles(ours, 500)]:
        check((ours, library), text)
    added = library.get_added_tokens_decoder()
    assert ours.added_ids == added.keys()
    assert ours.special_ids == {id for id, token in added.items() if token.special}
    assert ours.vocab_size == library.get_vocab_size()
    for id in range(ours.vocab_size):
        name = library.id_to_token(id)
        assert ours.token_id(name) == id
        assert id in added or ours.token_text(id) == library.decode([id])


def with_token(**flags: bool) -> Change:
    return lambda file: file["added_tokens"][-1].update(flags)


def with_model(**settings: Any) -> Change:
    return lambda file: file["model"].update(settings)


def cut_by(**step: Any) -> Change:
    return lambda file: file["pre_tokenizer"]["pretokenizers"].insert(0, step)


def with_letters(**settings: Any) -> Change:
    return lambda file: file["pre_tokenizer"]["pretokenizers"][-1].update(settings)


def without_a_letter(file: dict[str, Any]) -> None:
    """A vocabulary that writes an unknown byte as its unknown token."""
    model = file["model"]
    model["vocab"]["<letter>"] = model["vocab"].pop("ø")
    model["unk_token"] = "<s>"
    model["merges"] = [merge for merge in model["merges"] if "ø" not in "".join(merge)]


def with_a_space(file: dict[str, Any]) -> None:
    """A merge that would be another one as a line of text."""
    vocab = file["model"]["vocab"]
    size = max(token["id"] for token in file["added_tokens"]) + 1
    vocab |= {"e f": size, "e fe": size + 1, "fe": size + 2}
    file["model"]["merges"].append(["e f", "e"])


OTHERS: dict[str, Change] = {
    "a token takes spaces before it": with_token(lstrip=True),
    "a token takes spaces behind it": with_token(rstrip=True),
    "a token is a word only": with_token(single_word=True),
    "a token is found in composed text": with_token(normalized=True),
    "dropout": with_model(dropout=0.5),
    "a suffix": with_model(end_of_word_suffix="</w>"),
    "a prefix": with_model(continuing_subword_prefix="##"),
    "an unknown byte": without_a_letter,
    "a space before the first word": with_letters(add_prefix_space=True),
    "another step": cut_by(type="Punctuation", behavior="Isolated"),
    "a step that takes text away": cut_by(
        type="Split", pattern={"String": " "}, behavior="Removed", invert=False
    ),
    "another normalizer": lambda file: file.update(normalizer={"type": "Lowercase"}),
    "no letters": lambda file: file["pre_tokenizer"]["pretokenizers"].pop(),
    "another model": with_model(type="WordLevel", unk_token="<s>"),
    "ids that are not all used": lambda file: file["added_tokens"][-1].update(id=5000),
    "no decoder": lambda file: file.update(decoder=None),
    "another decoder": lambda file: file.update(decoder={"type": "Fuse"}),
    "a merge with a space in it": with_a_space,
    "a merge of no token": lambda file: file["model"]["merges"].append(["q", "<none>"]),
    "a merge of three": lambda file: file["model"]["merges"].append("a b c"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_left_to_the_library(name: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    file = json.loads(qwen().to_str())
    path.write_text(json.dumps(file), encoding="utf-8")
    assert read_byte_level(path) is not None
    OTHERS[name](file)
    path.write_text(json.dumps(file), encoding="utf-8")
    assert read_byte_level(path) is None
