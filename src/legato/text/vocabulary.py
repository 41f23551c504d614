"""Text to token ids and back, exactly, for every kind of model file.

Encoding is done by the ``tokenizers`` library. Decoding is ours: each id stands for known bytes, and
text is those bytes joined and read as UTF-8, so what is streamed, what is returned whole and what is
reported for a single token can never disagree.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from functools import cached_property
from itertools import pairwise

import tokenizers

from legato.text.quoting import ControlNames, Quotes
from legato.text.spelling import Spelling

LONG = 10_000
"""Characters from which encoding goes through the library's call for many texts, which lets go of
Python's lock, so that another thread's streams go on meanwhile."""


class Place(Enum):
    """Where a text stands: some vocabularies put a space before a first word."""

    START = "begins the sequence"
    MIDWAY = "follows a control token"
    INSIDE = "goes on in the middle of a text"


class Tokenizer:
    """One model's vocabulary. Safe to use from several threads."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        spelling: Spelling,
        added: dict[int, bytes],
        special_ids: Iterable[int],
        bos_token_id: int | None,
        eos_token_ids: Sequence[int],
        prefix_ids: Sequence[int] = (),
        suffix_ids: Sequence[int] = (),
        space_prefix: bool = False,
        vocab_size: int,
    ) -> None:
        """``added`` spells the tokens that are matched in text before anything else.

        ``prefix_ids`` and ``suffix_ids`` are what ``add_special_tokens`` adds; ``space_prefix`` says
        that the vocabulary puts a space before the first word, which is no part of the text.
        """
        self._backend = backend
        self._spelling = spelling
        self._bytes = dict(added)
        self.added_ids = frozenset(added)
        self._lock = threading.Lock()
        self._prefix_ids = list(prefix_ids)
        self._suffix_ids = list(suffix_ids)
        self.space_prefix = space_prefix
        self.special_ids = frozenset(special_ids)
        self.bos_token_id = bos_token_id
        self.eos_token_ids = list(eos_token_ids)
        self.vocab_size = vocab_size  # one more than the largest id

    def encode(
        self, text: str, *, add_special_tokens: bool = True, parse_special: bool = True
    ) -> list[int]:
        """Token ids of ``text``.

        ``parse_special=False`` reads the names of control tokens as ordinary text. A BOS that the
        text begins with is not added again.
        """
        ids = self._encoding(text, parse_special).ids
        return self._framed(ids) if add_special_tokens else ids

    def encode_prompt(self, text: str, seam: int, quotes: Quotes) -> list[int]:
        """Ids of a prompt whose client's words are quoted; the client's prefill begins at ``seam``.

        Equal to ``encode(text, add_special_tokens=False)`` unless the client wrote the name of a
        control token, or a prefill begins with spaces that a control token before it would swallow.
        """
        return self._quoted_ids(text, seam, quotes, Place.START)

    def encode_words(self, text: str, seam: int, quotes: Quotes) -> list[int]:
        """As ``encode_prompt``, of words which go on in the middle of a text."""
        return self._quoted_ids(text, seam, quotes, Place.INSIDE) if text else []

    def encode_header(self, text: str, quotes: Quotes, prompt_ids: list[int]) -> list[int]:
        """As ``encode_prompt``, of the beginning of a prompt that has ``prompt_ids``.

        What stands before the last control token is the same in both.
        """
        last = len(prompt_ids) - 1
        while last > 0 and prompt_ids[last] not in self.special_ids:
            last -= 1
        at = text.rfind(self.token_text(prompt_ids[last])) if last > 0 else -1
        if at >= 0:
            ids = self._quoted_ids(text[at:], len(text), quotes, Place.MIDWAY)
            if ids[0] == prompt_ids[last]:
                return prompt_ids[:last] + ids
        return self.encode_prompt(text, len(text), quotes) if text else []

    def _quoted_ids(self, text: str, seam: int, quotes: Quotes, place: Place) -> list[int]:
        whole = self._encoding(text, True, place)
        controls = self._controls(text, whole)
        if not quotes and not any(start < seam < end for _, start, end in controls):
            return whole.ids
        ids: list[int] = []
        at = 0
        for id, start, end in controls:
            ids += self._plain_ids(quotes.restore(text[at:start]), place)
            ids.append(id)
            at = min(end, seam) if start < seam else end
            place = Place.MIDWAY
        return ids + self._plain_ids(quotes.restore(text[at:]), place)

    def _controls(self, text: str, whole: tokenizers.Encoding) -> list[tuple[int, int, int]]:
        """(id, start, end) of each control token, with the white space that it swallows.

        An unknown character has the id of a control token too, but not its name.
        """
        return [
            (id, start, end)
            for id, (start, end) in zip(whole.ids, whole.offsets, strict=True)
            if id in self.special_ids and text[start:end].strip() == self.token_text(id).strip()
        ]

    def _plain_ids(self, text: str, place: Place) -> list[int]:
        """Ids of text between control tokens. A vocabulary may know their names as words, too."""
        if not text:
            return []
        found = self._encoding(text, False, place)
        cuts = [
            text.index(text[start:end].strip(), start) + 1  # between a name's first two letters
            for _, start, end in self._controls(text, found)
            if len(text[start:end].strip()) > 1
        ]
        if not cuts:
            return found.ids
        pieces = [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]
        apart = [
            self._plain_ids(piece, place if index == 0 else Place.INSIDE)
            for index, piece in enumerate(pieces)
        ]
        return [id for ids in apart for id in ids]

    @cached_property
    def control_names(self) -> ControlNames:
        """The names that control tokens are written by."""
        return ControlNames(self.token_text(id) for id in self.special_ids)

    def decode(
        self, ids: Iterable[int], *, skip_special_tokens: bool = True, at_start: bool = False
    ) -> str:
        """The text of ``ids``; bytes that are not UTF-8 become U+FFFD.

        ``at_start`` says that the ids begin a text, so that a space which ``encode`` put before its
        first word is dropped; a continuation keeps it.
        """
        data = b"".join(
            self.token_bytes(id)
            for id in ids
            if not (skip_special_tokens and id in self.special_ids)
        )
        if at_start and self.space_prefix:
            data = data.removeprefix(b" ")
        return data.decode("utf-8", "replace")

    def token_bytes(self, id: int) -> bytes:
        """The exact bytes of one token; none for an id that the vocabulary does not use."""
        data = self._bytes.get(id)
        if data is None:
            data = self._bytes[id] = self._spell(id)
        return data

    def all_bytes(self, count: int) -> list[bytes]:
        """``token_bytes`` of the ids below ``count``, which are not remembered one by one: for
        Gemma that would take 25 MB."""
        known = self._bytes
        return [known[id] if id in known else self._spell(id) for id in range(count)]

    def _spell(self, id: int) -> bytes:
        piece = self._backend.id_to_token(id) if id >= 0 else None
        return b"" if piece is None else self._spelling(piece)

    def token_text(self, id: int) -> str:
        """The text of one token alone, as shown with log-probabilities."""
        return self.token_bytes(id).decode("utf-8", "replace")

    def token_id(self, piece: str) -> int | None:
        """The id of a vocabulary entry, e.g. ``<|im_end|>``."""
        found: int | None = self._backend.token_to_id(piece)
        return found

    def _encoding(
        self, text: str, parse_special: bool, place: Place = Place.START
    ) -> tokenizers.Encoding:
        """One call of the library; its switches belong to the tokenizer, hence the lock."""
        with self._lock:
            backend = self._backend
            backend.encode_special_tokens = not parse_special
            with _without_prefix(backend, place):
                if len(text) < LONG:
                    return backend.encode(text, add_special_tokens=False)
                return backend.encode_batch([text], add_special_tokens=False)[0]

    def _framed(self, ids: list[int]) -> list[int]:
        prefix, suffix = self._prefix_ids, self._suffix_ids
        if prefix and ids[: len(prefix)] == prefix:
            prefix = []
        return [*prefix, *ids, *suffix]


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
