"""A vocabulary's strings as the native core (``native/text``) takes them, and what all its vocabularies answer alike."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from legato._text import ByteLevel, Pieces, SentencePiece
from legato.gguf_file import Strings


def buffers(strings: Sequence[str]) -> tuple[Any, Any, Any]:
    """(bytes, starts, ends): those of the file itself, if the strings were not read yet."""
    if isinstance(strings, Strings):
        return strings.data, strings.starts, strings.ends
    spelled = [string.encode() for string in strings]
    ends = array("Q", accumulate(map(len, spelled)))
    starts = array("Q", [0, *ends[:-1]][: len(ends)])
    return b"".join(spelled), starts, ends


def pieces_of(tokens: Sequence[str]) -> Pieces:
    """Raises ValueError saying which token occurs twice or is not UTF-8."""
    return Pieces(*buffers(tokens))


class NativeVocabulary:
    """The part of an ``Encoder`` that spells tokens."""

    def __init__(self, pieces: Pieces, rules: SentencePiece | ByteLevel) -> None:
        self._pieces = pieces
        self._spelling = rules

    def spell(self, id: int) -> bytes:
        return self._spelling.spell(id) if 0 <= id < len(self._pieces) else b""

    def spell_all(self, count: int) -> tuple[bytes, bytes]:
        return self._spelling.spell_all(count)

    def token_id(self, piece: str) -> int | None:
        found = self._pieces.find(piece)
        return None if found < 0 else found
