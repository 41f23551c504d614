"""An answer, the places where it is cut, and whether what came back is the rest of it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from legato.bench.seam_client import REPLACEMENT, Reply

SPARE = 8
"""Tokens that a continuation may take beyond those of the rest: it may be spelled in more of them."""

WHOLE, INSIDE, SPACE = "at a token boundary", "inside a token", "after white space"


@dataclass(frozen=True)
class Answer:
    """An uninterrupted answer. ``canonical``: the ids of its text by the tokenizer, if known."""

    number: int  # of the question
    question: str
    reply: Reply
    canonical: list[int]

    @property
    def text(self) -> str:
        return self.reply.text

    @property
    def ended(self) -> bool:
        """By itself, not because it had all the tokens that were asked for."""
        return self.reply.finish_reason == "stop"

    def places(self, every: int) -> list[int]:
        """Every ``every``-th place with something on both sides; the very end if it is one."""
        end = len(self.text) + (1 if self.ended else 0)
        return list(range(every, end, every))

    def tokens_before(self, place: int) -> int:
        """How many tokens lie wholly before a place; at least so many if ids are not told."""
        return sum(self.reply.counts[: bisect_right(self.reply.boundaries, place)])

    def room(self, place: int) -> int:
        """``max_tokens`` for the rest."""
        return self.reply.completion_tokens - self.tokens_before(place) + SPARE

    def kinds(self, place: int) -> list[str]:
        """Of a cut: one of the first two, perhaps the third."""
        kinds = [WHOLE if place in self.reply.boundaries else INSIDE]
        return [*kinds, SPACE] if self.text[place - 1].isspace() else kinds

    def own_ids(self) -> list[int]:
        """Of the answer's text: without the token that ended it."""
        ids = self.reply.token_ids
        return ids[:-1] if self.ended else ids

    @property
    def is_canonical(self) -> bool:
        """Whether the tokenizer spells this text with the tokens that the model chose.

        The last token of an answer cut off by its length may have been half a character.
        """
        own = self.own_ids()
        count = len(own) if self.ended else len(own) - 1
        return not own or not self.canonical or own[:count] == self.canonical[:count]


@dataclass(frozen=True)
class Cut:
    """An answer that was cut and continued. ``differs``: characters after the cut, -1 if exact."""

    answer: Answer
    place: int
    reply: Reply

    @property
    def rest(self) -> str:
        return self.answer.text[self.place :]

    @property
    def exact(self) -> bool:
        """The rest and the same end; or, where the answer had no more tokens, the rest at least."""
        if self.reply.error:
            return False
        whole = "".join(self.reply.pieces)
        if self.answer.ended:
            return whole == self.rest and self.reply.finish_reason == "stop"
        return whole.startswith(self.rest)

    @property
    def differs(self) -> int:
        """Characters after the cut where the reply stops being the rest."""
        return common(self.rest, "".join(self.reply.pieces))

    @property
    def settled(self) -> bool:
        """Whether more tokens could not change what the reply shows."""
        text = self.reply.text
        if self.reply.error or self.reply.finish_reason != "length":
            return True
        return not self.rest.startswith(text) and not text.startswith(self.rest)

    @property
    def given_ids(self) -> list[int]:
        """How the server spells the words before the cut (a server that heals: its first guess)."""
        return self.reply.prompt_token_ids[len(self.answer.reply.prompt_token_ids) :]

    def cause(self) -> str:
        """Why it is not exact, as far as it can be told from outside."""
        reply, answer = self.reply, self.answer
        if reply.error:
            return "the server refused it"
        if REPLACEMENT in answer.text[: self.place]:
            return "the text cannot carry half a character of the answer"
        if self.differs == len("".join(reply.pieces)) and reply.finish_reason == "length":
            return "spelled in more tokens than were asked for"
        if not answer.reply.token_ids:
            return f"cut {answer.kinds(self.place)[0]}"
        before = answer.tokens_before(self.place)
        if common(answer.reply.token_ids, self.given_ids) < before:
            if not answer.is_canonical:
                return "the answer's own tokens are not the canonical ones"
            return "the words before the cut in other tokens than the answer's"
        same = common(answer.reply.token_ids[before:], reply.token_ids)
        if same == 0 and INSIDE in answer.kinds(self.place):
            return "the token that was cut is another one"
        return "another choice after the same tokens"


def common(left: Sequence[Any], right: Sequence[Any]) -> int:
    """How long the two are the same."""
    shorter = min(len(left), len(right))
    return next((i for i in range(shorter) if left[i] != right[i]), shorter)


Tokens = list[tuple[int, str]]


@dataclass
class Miss:
    """One for the report, with the tokens around the cut, if they are told."""

    question: int
    place: int
    kinds: list[str]
    cause: str
    differs_after: int
    before: str
    rest: str
    reply: str
    answer_tokens: Tokens = field(default_factory=list)
    given_tokens: Tokens = field(default_factory=list)  # the end of the words before the cut
    reply_tokens: Tokens = field(default_factory=list)
    error: str = ""

    @classmethod
    def of(cls, cut: Cut) -> Miss:
        near = slice(0, cut.differs + 24)
        return cls(
            question=cut.answer.number,
            place=cut.place,
            kinds=cut.answer.kinds(cut.place),
            cause=cut.cause(),
            differs_after=cut.differs,
            before=cut.answer.text[max(0, cut.place - 24) : cut.place],
            rest=cut.rest[near],
            reply="".join(cut.reply.pieces)[near],
            error=cut.reply.error,
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
