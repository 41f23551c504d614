"""Encodes with a byte-level BPE vocabulary (``native/text``).

The ``tokenizers`` library cuts the text into words. To join them, it would hold the vocabulary twice, and its
merges (docs/benchmarks.md, "Start").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from typing import Final

from legato._text import ByteLevel, Pieces
from legato.text.encoder import Place, Tokens
from legato.text.known_texts import KnownTexts
from legato.text.pieces import NativeVocabulary, buffers
from legato.text.word_cutter import WordCutter

_SHORT: Final = 64  # characters below which a text saves too little to take the place of another


class ByteLevelEncoder(NativeVocabulary):
    """``types`` are values of ``tokenizer.ggml.token_type``, ``special_ids`` those of control tokens;
    ``merges``: two pieces with a space between them, the best first; ``whole_words``: a word that is a
    token is that token, whatever they say. Raises ValueError naming what does not fit."""

    def __init__(
        self,
        pieces: Pieces,
        types: bytes,
        merges: Sequence[str],
        cutter: WordCutter,
        *,
        whole_words: bool,
        special_ids: Iterable[int],
    ) -> None:
        self._rules = ByteLevel(pieces, types, *buffers(merges), whole_words=whole_words)
        super().__init__(pieces, self._rules)
        self._special_ids = frozenset(special_ids)
        self._cutter = cutter
        self._known = KnownTexts()
        self._salt: str | None = None

    def encode(self, text: str, parse_special: bool, place: Place) -> Tokens:
        names = self._rules.names(text, parse_special=parse_special)
        ids: list[int] = []
        at = 0
        for id, start, end in names:
            ids += self._encode_words(text[at:start])
            ids.append(id)
            at = end
        ids += self._encode_words(text[at:])
        return Tokens(ids, [name for name in names if name[0] in self._special_ids])

    def remembering(self, salt: str) -> ByteLevelEncoder:
        other = copy(self)
        other._salt = salt
        return other

    def _encode_words(self, text: str) -> list[int]:
        if not text:
            return []
        if self._salt is None or len(text) < _SHORT:
            return self._cut_and_join(text)
        return self._known.ids(self._salt, text, self._cut_and_join)

    def _cut_and_join(self, text: str) -> list[int]:
        return self._rules.encode(*self._cutter.cut(text))
