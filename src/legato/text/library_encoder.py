"""Encodes with the ``tokenizers`` library: every kind of vocabulary that tokenizer.json describes."""

from __future__ import annotations

import json
import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

import tokenizers

from legato.text.encoder import Place
from legato.text.spelling import Spelling

LONG = 10_000
"""Characters from which encoding goes through the library's call for many texts, which lets go of
Python's lock, so that another thread's streams go on meanwhile."""


@dataclass(frozen=True)
class _Encoded:
    text: str
    encoding: tokenizers.Encoding
    names: dict[int, str]  # of control tokens, without white space around them

    @property
    def ids(self) -> list[int]:
        ids: list[int] = self.encoding.ids
        return ids

    def controls(self) -> list[tuple[int, int, int]]:
        """An unknown character has the id of a control token too, but not its name."""
        names, text = self.names, self.text
        return [
            (id, start, end)
            for id, (start, end) in zip(self.encoding.ids, self.encoding.offsets, strict=True)
            if id in names and text[start:end].strip() == names[id]
        ]


class LibraryEncoder:
    """``added`` spells the tokens that are matched in text before anything else."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        spelling: Spelling,
        added: dict[int, bytes],
        special_ids: list[int],
    ) -> None:
        self.backend = backend
        self._spelling = spelling
        self._added = added
        self._names = {id: self.spell(id).decode("utf-8", "replace").strip() for id in special_ids}
        self._lock = threading.Lock()

    def encode(self, text: str, parse_special: bool, place: Place) -> _Encoded:
        """One call of the library; its switches belong to the tokenizer, hence the lock."""
        with self._lock:
            backend = self.backend
            backend.encode_special_tokens = not parse_special
            with _without_prefix(backend, place):
                if len(text) < LONG:
                    encoding = backend.encode(text, add_special_tokens=False)
                else:
                    encoding = backend.encode_batch([text], add_special_tokens=False)[0]
        return _Encoded(text, encoding, self._names)

    def remembering(self, salt: str) -> LibraryEncoder:
        return self

    def spell(self, id: int) -> bytes:
        if id in self._added:
            return self._added[id]
        piece = self.backend.id_to_token(id) if id >= 0 else None
        return b"" if piece is None else self._spelling(piece)

    def spell_all(self, count: int) -> tuple[bytes, bytes]:
        spelled = [self.spell(id) for id in range(count)]
        return b"".join(spelled), array("i", accumulate(map(len, spelled))).tobytes()

    def token_id(self, piece: str) -> int | None:
        found: int | None = self.backend.token_to_id(piece)
        return found


@contextmanager
def _without_prefix(backend: tokenizers.Tokenizer, place: Place) -> Iterator[None]:
    """Switches off, for text at ``place``, what puts a space before a first word."""
    cutter, normalizer = backend.pre_tokenizer, backend.normalizer
    scheme = getattr(cutter, "prepend_scheme", "never")
    inside = place is Place.INSIDE
    if scheme == "first" and place is not Place.START or scheme == "always" and inside:
        cutter.prepend_scheme = "never"
    bare = _bare(normalizer) if inside else None
    if bare is not None:
        backend.normalizer = bare
    try:
        yield
    finally:
        if scheme != "never":
            cutter.prepend_scheme = scheme
        if bare is not None:
            backend.normalizer = normalizer


def _bare(
    normalizer: tokenizers.normalizers.Normalizer | None,
) -> tokenizers.normalizers.Normalizer | None:
    """The normalizer without its prefix; None if it has none."""
    if normalizer is None:
        return None
    state = json.loads(normalizer.__getstate__())
    parts = state["normalizers"] if state["type"] == "Sequence" else [state]
    others = [part for part in parts if part["type"] != "Prepend"]
    if len(others) == len(parts):
        return None
    bare = tokenizers.normalizers.Sequence([])
    bare.__setstate__(json.dumps({"type": "Sequence", "normalizers": others}).encode())
    return bare
