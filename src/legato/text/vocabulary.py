"""Text to token ids and back, exactly, for every kind of model file.

Encoding is done by an ``Encoder``. Decoding is here: each id stands for known bytes, and text is those
bytes joined and read as UTF-8, so what is streamed, what is returned whole and what is reported for a
single token can never disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from functools import cached_property
from itertools import pairwise

from legato.text.encoder import Encoder, Place
from legato.text.quoting import ControlNames, Quotes


class Tokenizer:
    """One model's vocabulary. Safe to use from several threads."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        added_ids: Iterable[int],
        special_ids: Iterable[int],
        bos_token_id: int | None,
        eos_token_ids: Sequence[int],
        prefix_ids: Sequence[int] = (),
        suffix_ids: Sequence[int] = (),
        space_prefix: bool = False,
        vocab_size: int,
    ) -> None:
        """``added_ids`` are matched in text before anything else, ``special_ids`` among them only where
        control tokens are parsed.

        ``prefix_ids`` and ``suffix_ids`` are what ``add_special_tokens`` adds; ``space_prefix`` says
        that the vocabulary puts a space before the first word, which is no part of the text.
        """
        self._encoder = encoder
        self._bytes: dict[int, bytes] = {}  # of the tokens that came
        self.added_ids = frozenset(added_ids)
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
        ids = self._encoder.encode(text, parse_special, Place.START).ids
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
        whole = self._encoder.encode(text, True, place)
        controls = whole.controls()
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

    def _plain_ids(self, text: str, place: Place) -> list[int]:
        """Ids of text between control tokens. A vocabulary may know their names as words, too."""
        if not text:
            return []
        found = self._encoder.encode(text, False, place)
        cuts = [
            text.index(text[start:end].strip(), start) + 1  # between a name's first two letters
            for _, start, end in found.controls()
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

    def remembering(self, salt: str) -> Tokenizer:
        """The same tokenizer, but faster with what was encoded with this salt lately."""
        other = copy(self)
        other.control_names = self.control_names
        other._encoder = self._encoder.remembering(salt)
        return other

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
            data = self._bytes[id] = self._encoder.spell(id)
        return data

    def spell_all(self, count: int) -> tuple[bytes, bytes]:
        """The bytes of all ids below ``count``, one after the other, and where each one's end (int32)."""
        return self._encoder.spell_all(count)

    def token_text(self, id: int) -> str:
        """The text of one token alone, as shown with log-probabilities."""
        return self.token_bytes(id).decode("utf-8", "replace")

    def token_id(self, piece: str) -> int | None:
        """The id of a vocabulary entry, e.g. ``<|im_end|>``."""
        return self._encoder.token_id(piece)

    def _framed(self, ids: list[int]) -> list[int]:
        prefix, suffix = self._prefix_ids, self._suffix_ids
        if prefix and ids[: len(prefix)] == prefix:
            prefix = []
        return [*prefix, *ids, *suffix]
