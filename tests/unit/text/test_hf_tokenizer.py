"""Tokenizers of Hugging Face folders, against transformers reading the same folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import corpus
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from trained import train_byte_level
from transformers import PreTrainedTokenizerFast

from legato.errors import ModelError, UnsupportedModelError
from legato.text.quoting import Quotes
from legato.text.tokenizer import Tokenizer, load_tokenizer


def write(folder: Path, tokenizer: tokenizers.Tokenizer, **files: dict[str, Any]) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder


def byte_level() -> tokenizers.Tokenizer:
    """Llama 3's shape: BOS from the post-processor."""
    tokenizer = train_byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bos)]
    )
    return tokenizer


def metaspace(scheme: str) -> tokenizers.Tokenizer:
    """Llama 2's and Mistral's shape: a space before the first word, bytes as a last resort."""
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        limit_alphabet=80,
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.PROSE * 3, trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = state["added_tokens"][:3]  # byte tokens are vocabulary, nothing more
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(state))
    strip = [decoders.Strip(" ", 1, 0)] if scheme != "never" else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def gemma() -> tokenizers.Tokenizer:
    """Gemma's shape: a normaliser writes the spaces, nothing is put before the text."""
    tokenizer = metaspace("never")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    return tokenizer


SHAPES = {
    "byte_level": byte_level,
    "metaspace_first": lambda: metaspace("first"),
    "metaspace_always": lambda: metaspace("always"),
    "gemma": gemma,
}


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_ids_and_text_are_those_of_transformers(shape: str, tmp_path: Path) -> None:
    backend = SHAPES[shape]()
    folder = write(tmp_path, backend, tokenizer_config={"bos_token": "<s>"})
    reference = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.vocab_size == len(reference)
    for text in corpus.ALL_TEXTS:
        ids = tokenizer.encode(text)
        if not text.startswith("<s>"):  # BOS is never doubled here
            assert ids == reference.encode(text), text
        bare = tokenizer.encode(text, add_special_tokens=False)
        assert bare == reference.encode(text, add_special_tokens=False)
        # Metaspace puts no space before one, so that the first of a text is lost to both.
        if text.startswith(" ") and tokenizer.space_prefix:
            continue
        if "\x00" not in text and "▁" not in text and "<" not in text:
            assert tokenizer.decode(bare, at_start=True) == text
            assert reference.decode(bare, clean_up_tokenization_spaces=False) == text
    for id in range(tokenizer.vocab_size):
        tokenizer.token_text(id)


def test_names_and_ends(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        byte_level(),
        tokenizer_config={"bos_token": {"content": "<s>"}, "eos_token": "<|im_end|>"},
        generation_config={"eos_token_id": [7, 9]},
        config={"eos_token_id": 8},
    )
    tokenizer = load_tokenizer(folder)
    assert tokenizer.bos_token_id == 0
    assert tokenizer.eos_token_ids == [7, 9, 1]
    assert tokenizer.special_ids == {0, 1}
    (folder / "generation_config.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    (folder / "special_tokens_map.json").write_text('{"bos_token": "<s>"}', encoding="utf-8")
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (0, [8])


def test_the_config_may_override_the_post_processor(tmp_path: Path) -> None:
    config: dict[str, Any] = {"bos_token": "<s>", "eos_token": "<|im_end|>"}
    folder = write(tmp_path, byte_level(), tokenizer_config=config)
    bare = load_tokenizer(folder).encode("Hi", add_special_tokens=False)
    assert load_tokenizer(folder).encode("Hi") == [0, *bare]
    assert load_tokenizer(folder).encode("<s>Hi") == [0, *bare]
    config |= {"add_bos_token": False, "add_eos_token": True}
    folder = write(tmp_path, byte_level(), tokenizer_config=config)
    assert load_tokenizer(folder).encode("Hi") == [*bare, 1]


def declared(first: int) -> dict[str, Any]:
    """As transformers writes them."""
    flags = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    names = {"<|im_start|>": True, "<s>": True, "<think>": False}
    tokens = [{"content": name, "special": special} | flags for name, special in names.items()]
    ids = [first, 0, first + 1]
    return {str(id): token for id, token in zip(ids, tokens, strict=True)}


@pytest.mark.parametrize("shape", ["byte_level", "gemma"])
def test_tokens_that_only_the_config_has(shape: str, tmp_path: Path) -> None:
    backend = SHAPES[shape]()
    size = backend.get_vocab_size()
    more = declared(size)
    more["0"]["content"] = backend.id_to_token(0)
    folder = write(tmp_path, backend, tokenizer_config={"added_tokens_decoder": more})
    reference = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.vocab_size == len(reference) == size + 2
    assert {size, size + 1} <= tokenizer.added_ids
    assert size in tokenizer.special_ids and size + 1 not in tokenizer.special_ids
    text = "<|im_start|>user\n<think>Hi<|im_start|>"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert ids == reference.encode(text, add_special_tokens=False)
    assert ids.count(size) == 2 and ids.count(size + 1) == 1
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("shape", ["byte_level", "gemma"])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"7": {"special": True}}, "content"),
        ({"7": "<tool>"}, "key 'added_tokens_decoder'"),
        ({"seven": {"content": "<tool>"}}, "seven"),
        ([1], "key 'added_tokens_decoder'"),
    ],
)
def test_tokens_of_the_config_that_cannot_be_are_named(
    shape: str, changed: Any, message: str, tmp_path: Path
) -> None:
    write(tmp_path, SHAPES[shape](), tokenizer_config={"added_tokens_decoder": changed})
    with pytest.raises(ModelError, match=rf"tokenizer_config\.json: .*{message}"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("shape", ["byte_level", "gemma"])
@pytest.mark.parametrize(("id", "content"), [(7, "<tool>"), (99999, "<tool>"), (7, "\ud800")])
def test_tokens_of_the_config_that_have_no_place_are_text(
    shape: str, id: int, content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = SHAPES[shape]()
    more = {str(id): {"content": content, "special": True}}
    folder = write(tmp_path, backend, tokenizer_config={"added_tokens_decoder": more})
    tokenizer = load_tokenizer(folder)
    assert f"{id}: {content!r} cannot have this id" in caplog.text
    assert tokenizer.vocab_size == backend.get_vocab_size()
    assert tokenizer.encode("<tool>") == backend.encode("<tool>").ids


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load_tokenizer(tmp_path / "absent")
    with pytest.raises(UnsupportedModelError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
    backend = byte_level()
    backend.decoder = decoders.WordPiece()
    write(tmp_path, backend)
    with pytest.raises(UnsupportedModelError, match=r"tokenizer\.json: key 'decoder'"):
        load_tokenizer(tmp_path)
    write(tmp_path, byte_level(), generation_config={"eos_token_id": "x"})
    with pytest.raises(ModelError, match=r"generation_config\.json: key 'eos_token_id'"):
        load_tokenizer(tmp_path)
    write(tmp_path, byte_level(), tokenizer_config={"bos_token": "\ud800"})
    with pytest.raises(ModelError, match="key 'bos_token'"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match=r"tokenizer_config\.json"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_that_cannot_encode_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(models.BPE({"b": 0}, [], unk_token="absent"))
    backend.decoder = decoders.ByteLevel()
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match=r"tokenizer\.json: text cannot be encoded: .*absent"):
        load_tokenizer(tmp_path)


def prompt_ids(tokenizer: Tokenizer, header: str, words: str) -> list[int]:
    quotes = Quotes(tokenizer.control_names, words)
    return tokenizer.encode_prompt(header + quotes.quote(words), len(header), quotes)


class TestPromptsOfTwoParts:
    """``encode_prompt``: control tokens count in the template's part, not in the client's."""

    @pytest.mark.parametrize("shape", sorted(SHAPES))
    def test_ordinary_text_is_encoded_as_a_whole(self, shape: str, tmp_path: Path) -> None:
        tokenizer = load_tokenizer(write(tmp_path, SHAPES[shape]()))
        for text in corpus.TEXTS:
            for header in ("", "<s>user: hi\n", "<s>"):
                whole = tokenizer.encode(header + text, add_special_tokens=False)
                assert prompt_ids(tokenizer, header, text) == whole

    @pytest.mark.parametrize("shape", sorted(SHAPES))
    def test_a_clients_control_tokens_are_text(self, shape: str, tmp_path: Path) -> None:
        tokenizer = load_tokenizer(write(tmp_path, SHAPES[shape]()))
        ids = prompt_ids(tokenizer, "<s>Say: ", "well <s> then")
        assert ids[0] == tokenizer.token_id("<s>")
        assert not set(ids[1:]) & tokenizer.special_ids
        assert tokenizer.decode(ids).removeprefix(" ") == "Say: well <s> then"
        plain = prompt_ids(tokenizer, "<s>Say: ", "well")
        assert ids[: len(plain) - 1] == plain[:-1]

    def test_spaces_that_a_control_token_would_swallow_stay(self, tmp_path: Path) -> None:
        backend = byte_level()
        backend.add_special_tokens([tokenizers.AddedToken("<a>", special=True, rstrip=True)])
        tokenizer = load_tokenizer(write(tmp_path, backend))
        assert tokenizer.decode(prompt_ids(tokenizer, "<a>\n", " Hi")) == " Hi"

    @pytest.mark.parametrize("shape", sorted(SHAPES))
    def test_words_in_the_middle_of_a_text_get_no_space(self, shape: str, tmp_path: Path) -> None:
        tokenizer = load_tokenizer(write(tmp_path, SHAPES[shape]()))
        whole = tokenizer.encode("one two", add_special_tokens=False)
        for text in corpus.TEXTS:
            quotes = Quotes(tokenizer.control_names, text)
            ids = tokenizer.encode_words(quotes.quote(text), 0, quotes)
            assert tokenizer.decode(ids) == text or "▁" in text
        assert tokenizer.encode("one two", add_special_tokens=False) == whole
