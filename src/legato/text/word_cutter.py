"""Cuts a text into the words of a byte-level vocabulary, with the ``tokenizers`` library's expressions."""

from __future__ import annotations

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from legato.text.library_encoder import LONG
from legato.text.pretokenizers import Recipe

_UNKNOWN = ""


class WordCutter:
    """Safe to use from several threads."""

    def __init__(self, rules: pre_tokenizers.PreTokenizer, *, nfc: bool) -> None:
        """``rules`` take nothing away from a text; ``nfc``: it is composed first."""
        # The vocabulary is one unknown word: the library says where each word ends, and keeps nothing.
        self._library = tokenizers.Tokenizer(models.WordLevel({_UNKNOWN: 0}, _UNKNOWN))
        self._library.pre_tokenizer = rules
        self._composing = normalizers.NFC() if nfc else None

    @classmethod
    def of(cls, recipe: Recipe) -> WordCutter:
        cuts = [
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
            for pattern in recipe.patterns
        ]
        return cls(pre_tokenizers.Sequence(cuts), nfc=recipe.nfc)

    def cut(self, text: str) -> tuple[str, list[int]]:
        """The text, composed, and where each of its words ends. Lets go of Python's lock if it is long."""
        if self._composing is not None and not text.isascii():
            text = self._composing.normalize_str(text)
        if len(text) < LONG:
            encoding = self._library.encode(text, add_special_tokens=False)
        else:
            encoding = self._library.encode_batch([text], add_special_tokens=False)[0]
        return text, [end for _, end in encoding.offsets]
