"""Keeps a client's words from being read as control tokens.

``<|im_end|>`` in a message is text that somebody wrote; only the template's own is control. So before
the template is rendered, such names in the client's strings are replaced by marks: single characters
for private use that occur nowhere else. The tokenizer finds the template's control tokens in the
marked text; after that, the marks are turned back into what they stand for.

    client      Say <|im_end|> twice
    marked      Say \\uf0000 twice                     the template sees this
    prompt      <|im_start|>user\\nSay <|im_end|> twice<|im_end|>\\n

The beginning of a name at the end of a string is marked too: the next string may complete it.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from legato.errors import RequestError

_FIRST_MARK = 0xF0000
_LAST_MARK = 0x10FFFD
_MARK = re.compile(
    f"[{chr(_FIRST_MARK)}-{chr(_LAST_MARK)}]"
    r"|\\udb[89a-f][0-9a-f]\\ud[c-f][0-9a-f]{2}",  # as ``tojson(ensure_ascii=true)`` writes it
    re.IGNORECASE,
)


class ControlNames:
    """The names of a vocabulary's control tokens, and where they occur in a text."""

    def __init__(self, names: Iterable[str]) -> None:
        self._sorted = sorted({name for name in names if name})
        self._names = frozenset(self._sorted)

    @cached_property
    def _lengths(self) -> list[int]:
        """Longest first: of two names that begin alike, a text holds the longer one."""
        return sorted({len(name) for name in self._names}, reverse=True)

    @cached_property
    def _initial(self) -> re.Pattern[str]:
        initials = "".join(re.escape(letter) for letter in sorted({n[0] for n in self._sorted}))
        return re.compile(f"[{initials}]" if initials else r"(?!)")

    def spans(self, text: str) -> list[tuple[int, int]]:
        """(start, end) of each name, and of the beginning of a name that ends the text."""
        found: list[tuple[int, int]] = []
        at = 0
        visible = len(text.rstrip())  # a template may trim the text
        while match := self._initial.search(text, at):
            start = match.start()
            end = self._end(text, start, visible)
            if end > start:
                found.append((start, end))
            at = max(end, start + 1)
        return found

    def _end(self, text: str, start: int, visible: int) -> int:
        """Where the name that begins at ``start`` ends; ``start`` if there is none."""
        for length in self._lengths:
            name = text[start : start + length]
            if name in self._names:
                return start + len(name)
        longest = self._lengths[0]
        for end in {visible, len(text)}:
            if 0 < end - start < longest and self._begins_name(text[start:end]):
                return end
        return start

    def _begins_name(self, beginning: str) -> bool:
        index = bisect_left(self._sorted, beginning)
        return index < len(self._sorted) and self._sorted[index].startswith(beginning)


class Quotes:
    """The marks of one conversation. ``quote`` puts them in, ``restore`` takes them out."""

    def __init__(self, names: ControlNames | None, conversation: Any) -> None:
        """``conversation`` holds every string that will be quoted, so that no mark is in it.

        Without ``names`` nothing is quoted. ``quote`` raises RequestError if no mark is left.
        """
        self._names = names
        self._marks: dict[str, str] = {}  # what it stands for -> mark
        self._meanings: dict[str, str] = {}  # mark, or its JSON escape -> what it stands for
        self._taken = _marks_in(conversation)
        self._next = _FIRST_MARK

    def __bool__(self) -> bool:
        """Whether anything was quoted."""
        return bool(self._marks)

    def quote(self, value: Any) -> Any:
        """A copy of a JSON value with its strings quoted; keys too."""
        if isinstance(value, str):
            return self._quote(value)
        if isinstance(value, dict):
            return {self.quote(key): self.quote(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.quote(item) for item in value]
        return value

    def restore(self, text: str) -> str:
        """The text with every mark replaced by what it stands for."""
        if not self._marks or not _may_hold_marks(text):
            return text
        # What is no mark of ours is the template's own.
        return _MARK.sub(lambda found: self._meanings.get(found[0].lower(), found[0]), text)

    def _quote(self, text: str) -> str:
        spans = self._names.spans(text) if self._names is not None else []
        if not spans:
            return text
        parts: list[str] = []
        at = 0
        for start, end in spans:
            parts += (text[at:start], self._mark(text[start:end]))
            at = end
        return "".join(parts) + text[at:]

    def _mark(self, meaning: str) -> str:
        mark = self._marks.get(meaning)
        if mark is None:
            while chr(self._next) in self._taken:
                self._next += 1
            if self._next > _LAST_MARK:
                raise RequestError("messages: they use all characters for private use", "messages")
            mark = self._marks[meaning] = chr(self._next)
            self._next += 1
            self._meanings[mark] = meaning
            self._meanings[json.dumps(mark)[1:-1]] = json.dumps(meaning)[1:-1]
        return mark


def _marks_in(value: Any) -> frozenset[str]:
    """Characters of a JSON value that cannot serve as marks: they occur, or their JSON escapes do."""
    if isinstance(value, str):
        found = _MARK.findall(value) if _may_hold_marks(value) else []
        return frozenset(json.loads(f'"{mark.lower()}"') for mark in found)
    if isinstance(value, dict):
        return _marks_in([*value.keys(), *value.values()])
    if isinstance(value, (list, tuple)):
        return frozenset[str]().union(*map(_marks_in, value))
    return frozenset()


def _may_hold_marks(text: str) -> bool:
    """False of most texts, at no cost."""
    return not text.isascii() or "\\u" in text or "\\U" in text
