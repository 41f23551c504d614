"""What a ``Tokenizer`` asks of whoever knows the vocabulary and the rules that cut text into tokens."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Place(Enum):
    """Where a text stands: some vocabularies put a space before a first word."""

    START = "begins the sequence"
    MIDWAY = "follows a control token"
    INSIDE = "goes on in the middle of a text"


class Encoded(Protocol):
    """A text as tokens."""

    @property
    def ids(self) -> list[int]: ...

    def controls(self) -> list[tuple[int, int, int]]:
        """(id, start, end) of each control token, with the white space that it swallows."""


@dataclass(frozen=True)
class Tokens:
    """A text as tokens, whose control tokens are known."""

    ids: list[int]
    named: list[tuple[int, int, int]]

    def controls(self) -> list[tuple[int, int, int]]:
        return self.named


class Encoder(Protocol):
    """Safe to use from several threads."""

    def encode(self, text: str, parse_special: bool, place: Place) -> Encoded:
        """``parse_special=False`` reads the names of control tokens as ordinary text."""

    def remembering(self, salt: str) -> Encoder:
        """The same, but knowing again what was encoded with this salt, where that is faster."""

    def spell(self, id: int) -> bytes:
        """The exact bytes of one token; none for an id that the vocabulary does not use."""

    def spell_all(self, count: int) -> tuple[bytes, bytes]:
        """The bytes of all ids below ``count``, one after the other, and where each one's end (int32)."""

    def token_id(self, piece: str) -> int | None:
        """The id of a vocabulary entry, e.g. ``<|im_end|>``."""
