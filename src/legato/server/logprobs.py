"""Log-probabilities in the three shapes that clients know: chat, completions, vLLM's prompt."""

from __future__ import annotations

import codecs
from collections.abc import Container, Sequence
from typing import Any

from legato.request import TokenLogprobs
from legato.text.tokenizer import Tokenizer

LOWEST = -9999.0
"""JSON has no -inf; OpenAI and vLLM send this instead."""


_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


def _finite(logprob: float) -> float:
    return max(logprob, LOWEST)


def chat_logprobs(entries: list[TokenLogprobs], top: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """``logprobs`` of a chat choice: a list of tokens, each with its ``top`` best alternatives."""
    return {"content": [_chat_token(entry, top, tokenizer) for entry in entries]}


def _chat_token(entry: TokenLogprobs, top: int, tokenizer: Tokenizer) -> dict[str, Any]:
    def show(token: int, logprob: float) -> dict[str, Any]:
        return {
            "token": tokenizer.token_text(token),
            "logprob": _finite(logprob),
            "bytes": list(tokenizer.token_bytes(token)),
        }

    best = zip(entry.token_ids[1 : 1 + top], entry.logprobs[1 : 1 + top], strict=True)
    return {
        **show(entry.token_ids[0], entry.logprobs[0]),
        "top_logprobs": [show(token, logprob) for token, logprob in best],
    }


class TextOffsets:
    """Where the tokens of a choice begin in its text, as they come. ``hidden``: ids that have no text.

    Tokens that spell one character together all begin where it does, but for what they spell before it.
    """

    def __init__(self, tokenizer: Tokenizer, hidden: Container[int]) -> None:
        self._tokenizer = tokenizer
        self._hidden = hidden
        self._decoder = _Utf8Decoder(errors="replace")
        self._at = 0

    def echo(self, text: str, token_ids: Sequence[int]) -> list[int]:
        """Of a prompt, which the choice's text begins with, but for what its tokens spell before that: a
        BOS, the space before a first word."""
        self._at = len(text)
        added = ""
        if self._tokenizer.special_ids.intersection(token_ids[:1]):
            added = self._tokenizer.token_text(token_ids[0])
            added = "" if text.startswith(added) else added
        first = token_ids[bool(added) :][:1]
        if not text.startswith(" ") and self._tokenizer.decode(first).startswith(" "):
            added += " "
        found = TextOffsets(self._tokenizer, ()).push(token_ids)
        return [max(0, offset - len(added)) for offset in found]

    def push(self, token_ids: Sequence[int], overlap: int = 0) -> list[int]:
        """``overlap``: characters of the first that were given."""
        self._at -= overlap
        found = []
        for id in token_ids:
            found.append(self._at)
            if id not in self._hidden:
                self._at += len(self._decoder.decode(self._tokenizer.token_bytes(id)))
        return found


def completion_logprobs(
    token_ids: Sequence[int],
    entries: Sequence[TokenLogprobs | None],
    top: int,
    tokenizer: Tokenizer,
    offsets: list[int],
) -> dict[str, Any]:
    """``logprobs`` of a completions choice: four lists, one entry for each token.

    ``offsets``: from TextOffsets. The first token of a prompt has no log-probability: its entry is None.
    """
    return {
        "text_offset": offsets,
        "tokens": [tokenizer.token_text(token) for token in token_ids],
        "token_logprobs": [entry and _finite(entry.logprobs[0]) for entry in entries],
        "top_logprobs": [entry and _by_text(entry, top, tokenizer) for entry in entries],
    }


def _by_text(entry: TokenLogprobs, top: int, tokenizer: Tokenizer) -> dict[str, float]:
    """The best ``top`` tokens and the chosen one; of tokens with equal text the likelier."""
    pairs = [*zip(entry.token_ids[1 : 1 + top], entry.logprobs[1 : 1 + top], strict=True)]
    pairs.append((entry.token_ids[0], entry.logprobs[0]))
    found: dict[str, float] = {}
    for token, logprob in pairs:
        found.setdefault(tokenizer.token_text(token), _finite(logprob))
    return found


def prompt_logprobs(
    entries: Sequence[TokenLogprobs | None], tokenizer: Tokenizer
) -> list[dict[str, Any] | None]:
    """vLLM's ``prompt_logprobs``: for each prompt token, token id -> log-probability and rank."""
    return [None if entry is None else _by_id(entry, tokenizer) for entry in entries]


def _by_id(entry: TokenLogprobs, tokenizer: Tokenizer) -> dict[str, Any]:
    ranks = [entry.rank, *range(1, len(entry.token_ids))]
    return {
        str(token): {
            "logprob": _finite(logprob),
            "rank": rank,
            "decoded_token": tokenizer.token_text(token),
        }
        for token, logprob, rank in zip(entry.token_ids, entry.logprobs, ranks, strict=True)
    }
