"""The bytes that a vocabulary's entries stand for.

A vocabulary stores text in disguise. Byte-level BPE writes each byte as one printable character
("Ġ" is a space); SentencePiece writes a space as "▁" and a lone byte as "<0x0A>". A ``Spelling`` takes
the disguise off, so that decoding is exact concatenation of bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

Spelling = Callable[[str], bytes]

SPACE: Final = "▁"
_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's disguise: printable Latin-1 stands for itself, the other bytes follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    alphabet.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return alphabet


BYTE_ALPHABET: Final = _byte_alphabet()


def byte_level(piece: str) -> bytes:
    """A piece of a byte-level vocabulary; one with foreign characters stands for itself."""
    try:
        return bytes([BYTE_ALPHABET[character] for character in piece])
    except KeyError:
        return literal(piece)


def sentencepiece(piece: str) -> bytes:
    """A piece of a SentencePiece vocabulary, byte tokens included."""
    byte = _BYTE_TOKEN.fullmatch(piece)
    if byte:
        return bytes([int(byte[1], 16)])
    return piece.replace(SPACE, " ").encode()


def literal(piece: str) -> bytes:
    """Added tokens are written as they are."""
    return piece.encode()
