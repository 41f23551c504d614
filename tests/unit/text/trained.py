"""Small tokenizers trained on the corpus, as GGUF metadata, for comparison with other libraries."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import corpus
import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from legato.text.gguf_keys import TokenType


def train_sentencepiece(*, space_prefix: bool) -> sentencepiece.SentencePieceProcessor:
    """BPE with byte fallback, as Llama's and Gemma's models are made."""
    model = io.BytesIO()
    sentences = [line for text in corpus.TEXTS for line in text.split("\n") if line.strip()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=1500,
        hard_vocab_limit=False,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=space_prefix,
        character_coverage=0.98,
        # Gemma's runs of spaces; Llama, which puts a space before the text, has none.
        user_defined_symbols=[] if space_prefix else ["▁▁", "▁▁▁▁", "<table>"],
        control_symbols=["<turn>"],
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def sentencepiece_metadata(
    model: sentencepiece.SentencePieceProcessor, *, space_prefix: bool
) -> dict[str, Any]:
    """What a converter writes into a GGUF file for this model."""
    count = model.get_piece_size()
    pieces = [model.id_to_piece(id) for id in range(count)]
    types = []
    for id in range(count):
        if model.is_control(id):
            types.append(TokenType.CONTROL)
        elif model.is_unknown(id):
            types.append(TokenType.UNKNOWN)
        elif model.is_byte(id):
            types.append(TokenType.BYTE)
        elif set(pieces[id]) == {"▁"} or pieces[id] == "<table>":
            types.append(TokenType.USER_DEFINED if len(pieces[id]) > 1 else TokenType.NORMAL)
        else:
            types.append(TokenType.NORMAL)
    tokens = [
        piece.replace("▁", " ") if type == TokenType.USER_DEFINED else piece
        for piece, type in zip(pieces, types, strict=True)
    ]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [model.get_score(id) for id in range(count)],
        "tokenizer.ggml.token_type": [int(type) for type in types],
        "tokenizer.ggml.bos_token_id": model.bos_id(),
        "tokenizer.ggml.eos_token_id": model.eos_id(),
        "tokenizer.ggml.unknown_token_id": model.unk_id(),
        "tokenizer.ggml.add_space_prefix": space_prefix,
    }


def train_byte_level(cut: pre_tokenizers.PreTokenizer) -> tokenizers.Tokenizer:
    """Byte-level BPE over words cut by ``cut``, with two special tokens."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = cut
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.TEXTS * 2, trainer)
    return tokenizer


def byte_level_metadata(tokenizer: tokenizers.Tokenizer, pre: str, folder: Path) -> dict[str, Any]:
    """The GGUF form of a byte-level tokenizer."""
    _, merges = tokenizer.model.save(str(folder))
    vocabulary = tokenizer.get_vocab()
    special = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": sorted(vocabulary, key=vocabulary.__getitem__),
        "tokenizer.ggml.token_type": [3 if id in special else 1 for id in range(len(vocabulary))],
        "tokenizer.ggml.merges": Path(merges).read_text(encoding="utf-8").split("\n")[1:-1],
        "tokenizer.ggml.bos_token_id": vocabulary["<s>"],
    }
