"""Answers in messages on channels (gpt-oss), parted into thoughts and content.

    <|channel|>analysis<|message|>thoughts<|end|><|start|>assistant<|channel|>final<|message|>content

The marks are control tokens; the text that comes in here must show them.
"""

from __future__ import annotations

import re
from typing import Final

from legato.text.reasoning_split import Parted, Where

MARKS: Final = (
    "<|start|>",
    "<|channel|>",
    "<|constrain|>",
    "<|message|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
)
_MARK: Final = re.compile("|".join(map(re.escape, MARKS)))
_HEADER: Final = re.compile(re.escape("<|channel|>") + r"\s*(\w*)")


class HarmonySplit:
    """A ``ReasoningSplit`` for channels. What is on ``analysis`` is thought, all else is content.

    An answer without channels is content. A second message on a channel begins on a new line.
    """

    def __init__(self, where: Where) -> None:
        self.reasoning_tokens = 0
        self._text = ""  # held back
        self._channel: str | None = {"inside": "analysis", "start": None}.get(where, "final")
        self._header = ""  # of the message that is being opened
        self._spoken = {"analysis": where == "inside", "final": where in ("closed", "content")}
        self._between = False  # a message ended

    @property
    def is_over(self) -> bool:
        return self._channel == "final"

    def push(self, new: str, tokens: int = 1) -> Parted:
        """``new`` is the text of the next ``tokens``."""
        was_inside = self._channel == "analysis"
        self._text += new
        parted = self._step(final=False)
        if was_inside and self._channel == "analysis":
            self.reasoning_tokens += tokens
        return parted

    def finish(self, *, goes_on: bool = False) -> Parted:
        return Parted("", "") if goes_on else self._step(final=True)

    def _step(self, *, final: bool) -> Parted:
        said = {"analysis": "", "final": ""}
        while self._text:
            mark = _MARK.search(self._text)
            end = mark.start() if mark else self._certain(final)
            before, self._text = self._text[:end], self._text[end:]
            if before:
                self._say(before, said)
            if mark is None:
                break
            self._text = self._text[len(mark[0]) :]
            self._pass(mark[0])
        return Parted(said["analysis"], said["final"])

    def _say(self, text: str, said: dict[str, str]) -> None:
        if self._channel is None and not self._header and not self._between:
            self._channel = "final"  # a model that knows no channels
        if self._channel is None:
            self._header += text
            return
        if self._between and self._spoken[self._channel]:
            text = "\n" + text
        self._between = False
        self._spoken[self._channel] = True
        said[self._channel] += text

    def _pass(self, mark: str) -> None:
        """A mark ends a message, is part of the next one's header, or ends that header."""
        if mark == "<|message|>":
            found = _HEADER.search(self._header)
            name = found[1] if found else "final"
            self._channel, self._header = ("analysis" if name == "analysis" else "final"), ""
            return
        if self._channel is not None:
            self._channel, self._header, self._between = None, "", True
        self._header += mark

    def _certain(self, final: bool) -> int:
        """Up to where the held text cannot be the beginning of a mark."""
        start = self._text.rfind("<")
        if final or start < 0 or not any(mark.startswith(self._text[start:]) for mark in MARKS):
            return len(self._text)
        return start
