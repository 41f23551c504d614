"""What is kept of a completion's prompt, so that a longer one which begins with it is known again."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from legato.text.continuation import Prompt
from legato.text.resumption import Resumption
from legato.text.trace import Words, common_prefix, words_of
from legato.text.vocabulary import Tokenizer

_TAIL: Final = 16  # characters that are compared before the hash is
_OWN: Final = 16  # tokens at the end that may be others where the text goes on


class Beginning(NamedTuple):
    """Hashes instead of the text and of most ids, whatever the prompt's length."""

    length: int  # characters
    tail: str
    text: bytes  # hash
    known: int  # ids the model saw which the tokenizer makes of any longer text
    ids: bytes  # hash of them
    own: array[int]  # the ids after them
    pending: bytes  # the prompt's end, which the answer's first tokens spell again

    @classmethod
    def of(cls, prompt: Prompt, resumption: Resumption) -> Beginning:
        ids = resumption.prompt_token_ids + resumption.output_token_ids
        known = max(0, min(common_prefix(ids, prompt.token_ids), len(ids) - _OWN))
        text = prompt.text
        return cls(
            len(text),
            text[-_TAIL:],
            hash_of_text(text),
            known,
            hash_of_ids(ids[:known]),
            array("I", ids[known:]),
            resumption.pending,
        )

    def may_begin(self, text: str) -> bool:
        """A quick check; ``text`` is longer."""
        start = self.length - len(self.tail)
        return self.length < len(text) and text.startswith(self.tail, start)

    def ids_in(self, prompt: Prompt, tokenizer: Tokenizer) -> list[int] | None:
        """The ids that the model saw; None if ``prompt``'s are others (one has a BOS)."""
        known = prompt.token_ids[: self.known]
        if hash_of_ids(known) != self.ids:
            return None
        ids, bos = known + self.own.tolist(), [tokenizer.bos_token_id]
        return ids if (ids[:1] == bos) == (prompt.token_ids[:1] == bos) else None

    def words_in(self, prompt: Prompt, tokenizer: Tokenizer) -> Words:
        """What ``prompt`` says behind the beginning, and what the answer spelled again before that."""
        text = prompt.text[self.length :]
        ids: list[int] = []
        if not tokenizer.special_ids.isdisjoint(prompt.token_ids[self.known :]):
            ids = tokenizer.encode(text, add_special_tokens=False)
        words = words_of(text, ids, tokenizer)
        shift = len(self.pending)
        controls = [(offset + shift, id) for offset, id in words.controls]
        return Words(self.pending + words.plain, controls)


def hash_of_ids(ids: Sequence[int]) -> bytes:
    return blake2b(array("I", ids).tobytes(), digest_size=16).digest()


def hash_of_text(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()
