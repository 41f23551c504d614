"""Vocabularies as GGUF files have them. Needs nothing else of the native core."""

from typing import Any

def find_strings(data: Any, position: int, count: int) -> tuple[bytes, bytes]:
    """Where ``count`` strings start and end (uint64) that follow each other from ``position`` on, each
    behind its length. Raises ValueError saying which one passes the end of ``data``."""

def order_of(data: Any, ends: Any, left_out: list[int]) -> bytes:
    """Indices (int32) of strings that lie in ``data`` one after the other, sorted by their bytes, of equal
    ones the first first; without empty ones and those ``left_out``. ``ends``: a buffer of int32, where each
    ends. Raises ValueError naming what lies outside. Lets go of Python's lock."""

class Pieces:
    """The strings of a vocabulary, of which it keeps a copy."""

    def __init__(self, data: Any, starts: Any, ends: Any) -> None:
        """``data``: a buffer; ``starts``, ``ends``: buffers of uint64, where each string lies in it.

        An empty string is called ``[EMPTY_id]``. Raises ValueError saying which string is not UTF-8,
        lies outside of ``data`` or occurs twice.
        """

    def __len__(self) -> int: ...
    def __getitem__(self, id: int) -> str: ...
    def find(self, piece: str) -> int:
        """The id of a piece; -1 if there is none. UnicodeEncodeError if it has surrogates."""

class SentencePiece:
    """Immutable, so safe to use from several threads."""

    def __init__(self, pieces: Pieces, types: Any, scores: Any, unknown: int) -> None:
        """``types``: a buffer of uint8, values of ``tokenizer.ggml.token_type``; ``scores``: of
        float32; ``unknown``: the id of what has no other, or -1. ValueError names what does not fit.
        """

    def encode(
        self, text: str, *, parse_special: bool, prefix: bool
    ) -> tuple[list[int], list[tuple[int, int, int]]]:
        """Token ids, and (id, start, end) of each control token: where its name is in ``text``.

        Without ``parse_special`` such names are text; ``prefix`` puts a space before each stretch of
        text between names. Lets go of Python's lock. UnicodeEncodeError if ``text`` has surrogates.
        """

    def spell(self, id: int) -> bytes:
        """The bytes that a token stands for. Raises IndexError."""

    def spell_all(self, count: int) -> tuple[bytes, bytes]:
        """The bytes of the ids below ``count``, one after the other, and where each one's end (int32).
        Ids that the vocabulary does not have spell nothing."""

class ByteLevel:
    """Immutable, so safe to use from several threads."""

    def __init__(
        self, pieces: Pieces, types: Any, merges: Any, starts: Any, ends: Any, *, whole_words: bool
    ) -> None:
        """``types``: a buffer of uint8, values of ``tokenizer.ggml.token_type``; ``merges``: a buffer;
        ``starts``, ``ends``: buffers of uint64, where each merge lies in it: two pieces with a space
        between them, the best first. With ``whole_words`` a word that is a token is that token,
        whatever the merges say. ValueError names what does not fit.
        """

    def names(self, text: str, *, parse_special: bool) -> list[tuple[int, int, int]]:
        """(id, start, end) of each control and user-defined token whose name is in ``text``; of control
        tokens only with ``parse_special``. UnicodeEncodeError if ``text`` has surrogates."""

    def encode(self, text: str, ends: list[int]) -> list[int]:
        """Token ids of a text whose words end at ``ends``, the last where the text does (ValueError);
        without a control token. Bytes that have no token are left out. Lets go of Python's lock."""

    def spell(self, id: int) -> bytes:
        """The bytes that a token stands for. Raises IndexError."""

    def spell_all(self, count: int) -> tuple[bytes, bytes]:
        """The bytes of the ids below ``count``, one after the other, and where each one's end (int32).
        Ids that the vocabulary does not have spell nothing."""
