"""An answer's tokens with the places in its text where they end, and how far given words agree."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from legato.text.vocabulary import Tokenizer

_PORTION: Final = 4  # tokens that are spelled at first; then each time as many as before, and these


class Words(NamedTuple):
    """Text apart from its control tokens, each of which is (offset in ``plain``, id)."""

    plain: bytes
    controls: list[tuple[int, int]]


class Agreement(NamedTuple):
    """``common``: bytes that are alike. ``is_full``: all of the words are in the trace."""

    common: int
    least: int  # tokens up to the last control token that both have
    is_full: bool


def words_of(text: str, ids: Sequence[int], tokenizer: Tokenizer) -> Words:
    """``ids`` are the text's, and say what in it is control."""
    if tokenizer.special_ids.isdisjoint(ids):
        return Words(text.encode(), [])
    plain = bytearray()
    controls = []
    for id in ids:
        if id in tokenizer.special_ids:
            controls.append((len(plain), id))
        else:
            plain += tokenizer.token_bytes(id)
    return Words(bytes(plain), controls)


class Trace:
    """Control tokens take no room in the text, since clients do not see them."""

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self.ids = array("I", ids)
        self._ends = array("I")  # of each token whose bytes are in ``_text``
        self._text = bytearray()

    def __len__(self) -> int:
        return len(self.ids)

    def begins_with(self, text: bytes, tokenizer: Tokenizer) -> bool:
        """Whatever control tokens stand there."""
        while len(self._text) < len(text) and self._spell(tokenizer):
            pass
        return self._text.startswith(text)

    def agreement(self, words: Words, tokenizer: Tokenizer) -> Agreement:
        common = common_prefix(words.plain, self._text)
        while common == len(self._text) and self._spell(tokenizer):
            common += common_prefix(words.plain[common:], self._text[common:])
        least = 0
        for offset, id in words.controls:
            index = self._find(id, offset, least) if offset <= common else None
            if index is None:
                return Agreement(min(common, offset), least, False)
            least = index + 1
        return Agreement(common, least, common == len(words.plain))

    def whole(self, place: int, least: int = 0) -> int:
        """How many tokens stand before ``place``; control tokens at the end do not count.

        ``place`` is at most the ``common`` of an agreement: further the trace may not be spelled.
        """
        index = bisect_right(self._ends, place)
        if index == 0 or self._ends[index - 1] == 0:
            return least
        return max(least, bisect_left(self._ends, self._ends[index - 1]) + 1)

    def before(self, place: int) -> int:
        """How many tokens stand before ``place``, control tokens at the end included."""
        return bisect_right(self._ends, place)

    def end(self, count: int) -> int:
        """Length in bytes of the first ``count`` tokens."""
        return self._ends[count - 1] if count else 0

    def _find(self, id: int, offset: int, start: int) -> int | None:
        """Index of the control token ``id`` that stands at ``offset``, from ``start`` on."""
        for index in range(max(start, bisect_left(self._ends, offset)), len(self._ends)):
            if self._ends[index] != offset:
                return None
            if self.ids[index] == id:
                return index
        return None

    def _spell(self, tokenizer: Tokenizer) -> bool:
        """Spell some more tokens; False if there are none. Most answers are never asked for."""
        start = len(self._ends)
        for id in self.ids[start : 2 * start + _PORTION]:
            if id not in tokenizer.special_ids:
                self._text += tokenizer.token_bytes(id)
            self._ends.append(len(self._text))
        return len(self._ends) > start


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest beginning that two share: texts in bytes, or lists of ids."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def word_start(data: bytes) -> int:
    """Where the last word of UTF-8 text begins, with the white space before it.

    Half characters at the beginning are letters.
    """
    text = data.decode("utf-8", "surrogateescape")
    before, *word = text.rsplit(maxsplit=1) or [""]
    return len(before.encode("utf-8", "surrogateescape")) if word else 0
