"""Encodes with a SentencePiece vocabulary whose tokens have scores, as GGUF files hold it (``native/text``).

The ``tokenizers`` library would need the merges that the scores mean: Gemma's half million, which take a second
to find, half a second to index, and memory (docs/benchmarks.md, "Start").
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from legato._text import Pieces, SentencePiece
from legato.text.encoder import Place, Tokens
from legato.text.pieces import NativeVocabulary


class SentencePieceEncoder(NativeVocabulary):
    """``types`` are values of ``tokenizer.ggml.token_type``; ``unknown``: the id of what has no other, or -1;
    ``space_prefix``: a space is put before the first word. Raises ValueError naming what does not fit."""

    def __init__(
        self,
        pieces: Pieces,
        types: bytes,
        scores: Sequence[float],
        *,
        unknown: int,
        space_prefix: bool,
    ) -> None:
        self._rules = SentencePiece(pieces, types, array("f", scores), unknown)
        super().__init__(pieces, self._rules)
        self._space_prefix = space_prefix

    def encode(self, text: str, parse_special: bool, place: Place) -> Tokens:
        prefix = self._space_prefix and place is not Place.INSIDE
        return Tokens(*self._rules.encode(text, parse_special=parse_special, prefix=prefix))

    def remembering(self, salt: str) -> SentencePieceEncoder:
        return self
