"""Token ids in, text out, as they come: whole characters only, and never past a stop string.

    bytes of tokens ──> UTF-8 decoder (keeps half a character) ──> stop search (keeps what might
    begin a stop string) ──> the client

Whatever way the ids are chopped, the pieces joined are the text of the ids decoded at once, but for half
a character at the end of an answer that was cut off.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from legato.text.vocabulary import Tokenizer

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


@dataclass(frozen=True, slots=True)
class Delta:
    """New text; ``stop`` is the stop string that ended the answer, if one did."""

    text: str
    stop: str | None = None


class TextStream:
    """The text of one growing answer.

    ``prefill`` is the text which the answer continues. It is not given out again, but a stop string
    may begin in it: the uninterrupted answer would have ended there too. In the text of the first
    ``min_tokens`` tokens no stop string ends. ``shown_ids`` have their text though they are special.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        prefill: str = "",
        stop: Sequence[str] = (),
        include_stop: bool = False,
        skip_special_tokens: bool = True,
        shown_ids: frozenset[int] = frozenset(),
        min_tokens: int = 0,
        pending: int = 0,
    ) -> None:
        """``pending``: the first so many bytes spell the end of ``prefill`` again."""
        self._unstoppable = max(min_tokens, 0)
        self._pending = pending
        self._token_bytes = tokenizer.token_bytes
        hidden = tokenizer.special_ids if skip_special_tokens else frozenset[int]()
        self._hidden = hidden - shown_ids
        self._decoder = _Utf8Decoder(errors="replace")
        self._stop = StopSearch(stop, include_stop, prefill) if stop else None

    def push(self, token_ids: Sequence[int]) -> Delta:
        """The text that is certain once these tokens have come. Empty after a stop string."""
        if self._unstoppable > 0:
            return self._push_unstoppable(token_ids)
        data = b"".join([self._token_bytes(id) for id in token_ids if id not in self._hidden])
        if self._pending:
            self._pending, data = max(0, self._pending - len(data)), data[self._pending :]
        text = self._decoder.decode(data)
        return Delta(text) if self._stop is None else self._stop.push(text)

    def _push_unstoppable(self, token_ids: Sequence[int]) -> Delta:
        first, rest = token_ids[: self._unstoppable], token_ids[self._unstoppable :]
        stop, self._stop = self._stop, None
        self._unstoppable, after = 0, self._unstoppable - len(first)
        text = self.push(first).text
        self._unstoppable, self._stop = after, stop
        if stop is not None:
            stop.skip(text)
        later = self.push(rest) if rest else Delta("")
        return Delta(text + later.text, later.stop)

    def finish(self, *, goes_on: bool = False) -> Delta:
        """What was held back: half a character (as U+FFFD), the beginning of a stop string.

        ``goes_on``: the answer was cut off, and may be continued. Then half a character is left out: its
        other half is still to come, and nobody could send U+FFFD back as the beginning of it.
        """
        text = "" if goes_on else self._decoder.decode(b"", True)
        return Delta(text) if self._stop is None else self._stop.finish(text)


class StopSearch:
    """Finds the stop string that is complete first; the longest of several that end together."""

    def __init__(self, stop: Sequence[str], include_stop: bool, prefill: str) -> None:
        self._stops = [string for string in stop if string]
        self._include = include_stop
        self._stopped = False
        # Text that may still matter: its first ``_given`` characters are known to the client.
        self._text = prefill[self._keep_from(prefill) :]
        self._given = len(self._text)

    def push(self, new: str) -> Delta:
        if self._stopped or not new:
            return Delta("")
        self._text += new
        found = self._earliest()
        if found is not None:
            return self._end(*found)
        return Delta(self._give(self._keep_from(self._text)))

    def skip(self, new: str) -> None:
        """Text that the client has already, and in which nothing is to be found."""
        text = self._text + new
        self._text = text[self._keep_from(text) :]
        self._given = len(self._text)

    def finish(self, new: str) -> Delta:
        delta = self.push(new)
        if self._stopped:
            return delta
        return Delta(delta.text + self._give(len(self._text)))

    def _earliest(self) -> tuple[int, str] | None:
        """(start, stop string) of the match that ends first, but not within the prefill."""
        best: tuple[int, int, str] | None = None
        for string in self._stops:
            start = self._text.find(string, max(0, self._given - len(string) + 1))
            if start >= 0:
                match = (start + len(string), start, string)
                best = match if best is None else min(best, match)
        return None if best is None else best[1:]

    def _end(self, start: int, string: str) -> Delta:
        self._stopped = True
        end = start + len(string) if self._include else start
        return Delta(self._text[self._given : end], string)

    def _keep_from(self, text: str) -> int:
        """Where the longest ending of ``text`` that begins a stop string starts."""
        first = len(text)
        for string in self._stops:
            start = max(0, len(text) - len(string) + 1)
            while (start := text.find(string[0], start, first)) >= 0:
                if string.startswith(text[start:]):
                    first = start
                    break
                start += 1
        return first

    def _give(self, end: int) -> str:
        """Hand out the text up to ``end`` and forget it."""
        text = self._text[self._given : end]
        self._text = self._text[end:]
        self._given = max(0, self._given - end)
        return text
