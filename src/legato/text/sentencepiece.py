"""Encodes with a SentencePiece vocabulary whose tokens have scores, as GGUF files hold it (``native/text``).

The ``tokenizers`` library would need the merges that the scores mean: Gemma's half million, which take a second
to find, half a second to index, and memory (docs/benchmarks.md, "Start").
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from legato._text import Pieces, SentencePiece
from legato.gguf_file import Strings
from legato.text.encoder import Place


@dataclass(frozen=True)
class _Encoded:
    ids: list[int]
    _named: list[tuple[int, int, int]]

    def controls(self) -> list[tuple[int, int, int]]:
        return self._named


def pieces_of(tokens: Sequence[str]) -> Pieces:
    """Raises ValueError saying which token occurs twice or is not UTF-8."""
    if isinstance(tokens, Strings):
        return Pieces(tokens.data, tokens.starts, tokens.ends)
    spelled = [token.encode() for token in tokens]
    ends = array("Q", accumulate(map(len, spelled)))
    starts = array("Q", [0, *ends[:-1]][: len(ends)])
    return Pieces(b"".join(spelled), starts, ends)


class SentencePieceEncoder:
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
        self._pieces = pieces
        self._rules = SentencePiece(pieces, types, array("f", scores), unknown)
        self._space_prefix = space_prefix

    def encode(self, text: str, parse_special: bool, place: Place) -> _Encoded:
        prefix = self._space_prefix and place is not Place.INSIDE
        return _Encoded(*self._rules.encode(text, parse_special=parse_special, prefix=prefix))

    def spell(self, id: int) -> bytes:
        return self._rules.spell(id) if 0 <= id < len(self._pieces) else b""

    def spell_all(self, count: int) -> tuple[bytes, bytes]:
        return self._rules.spell_all(count)

    def token_id(self, piece: str) -> int | None:
        found = self._pieces.find(piece)
        return None if found < 0 else found
