"""From which tokens an answer is resumed: before the last word, because a cut may lie inside a token.

The model saw the tokens of the header, then wrote its own; the given words are split in the same way.
What it would have made of a word at the end depends on how the word goes on. So the end, from the last
word's first letter with the white space around it, is taken back: the first new tokens spell it again.

    words    "The three prim"
    tokens   The| three| prim          the uninterrupted answer:  The| three| primary
    kept     The| three                pending: b" prim"

Where the server remembers the answer (``legato.text.recall``), its very tokens are taken up to the cut.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from legato.text.continuation import Prompt
from legato.text.parting import open_words
from legato.text.quoting import Quotes
from legato.text.recall import AnswerMemory, Recalled
from legato.text.resumption import Resumption
from legato.text.trace import word_start
from legato.text.vocabulary import Tokenizer

MAX_BACK: Final = 16  # tokens that are taken back at most
_INSIDE_CHARACTER: Final = range(0x80, 0xC0)  # UTF-8


def resume(
    prompt: Prompt,
    tokenizer: Tokenizer,
    memory: AnswerMemory | None,
    salt: str,
    *,
    healing: bool,
    within_answer: bool = False,
) -> Resumption:
    """Split a prompt into what is kept and what is spelled again.

    Without ``healing`` nothing is spelled again, and ``memory`` helps only where the words end with a
    token of the remembered answer. ``within_answer``: neither what comes before the answer of a raw
    prompt is spelled again, nor closed thoughts before the content, since a grammar begins there.
    """
    if not (prompt.is_text and prompt.continues):
        header = prompt.header_ids if prompt.names_answer else prompt.token_ids
        return Resumption(header, prompt.token_ids[len(header) :], b"", [])
    if not prompt.names_answer:
        is_within = within_answer and not prompt.is_completion
        within = open_words(prompt, tokenizer) if is_within else None
        return _resumed(prompt, tokenizer, memory, salt, healing, 1, within)
    header = prompt.header_ids
    if not within_answer:
        whole = _resumed(prompt, tokenizer, memory, salt, healing, 1)
        kept = _kept(header, tokenizer, 1) if healing and header else len(header)
        return _parted(whole, header[:kept], tokenizer)
    # Only where a token begins with the answer.
    floor = _crossing(header, prompt.token_ids, tokenizer)
    if _spelling(prompt.token_ids[:floor], tokenizer) != _spelling(header, tokenizer):
        words = tokenizer.encode_words(prompt.prefill, 0, Quotes(None, []))
        prompt, floor = replace(prompt, token_ids=header + words), len(header)
    whole = _resumed(prompt, tokenizer, None, salt, healing, floor)
    return _parted(whole, header, tokenizer)


def spelled(text: str, ids: list[int], tokenizer: Tokenizer) -> bytes:
    """``text``, which is a part of what ``ids`` spell, as they spell it.

    These are other bytes where the tokenizer composes characters first (NFC).
    """
    data = text.encode()
    if not data or data in _spelling(ids, tokenizer):
        return data
    return _spelling(tokenizer.encode_words(text, 0, Quotes(None, [])), tokenizer)


def _parted(whole: Resumption, header: list[int], tokenizer: Tokenizer) -> Resumption:
    """With the tokens behind the header as the answer's."""
    ids = whole.prompt_token_ids
    start = len(header) if ids[: len(header)] == header else _crossing(header, ids, tokenizer)
    return replace(whole, prompt_token_ids=ids[:start], output_token_ids=ids[start:])


def _resumed(
    prompt: Prompt,
    tokenizer: Tokenizer,
    memory: AnswerMemory | None,
    salt: str,
    healing: bool,
    floor: int,
    within: str | None = None,
) -> Resumption:
    """``floor``: so many tokens of a raw prompt are kept in any case. ``within``: the last words of a
    chat's answer, before which nothing is spelled again."""
    recalled = memory.recall(salt, prompt, tokenizer) if memory is not None else None
    if recalled is not None and (healing or recalled.is_whole):
        return _recalled(prompt, recalled, tokenizer, within)
    if prompt.is_completion:
        kept = _kept(prompt.token_ids, tokenizer, floor) if healing else len(prompt.token_ids)
        return _split(prompt.token_ids[:kept], [], prompt.token_ids[kept:], tokenizer)
    if not healing:
        start = _crossing(prompt.header_ids, prompt.token_ids, tokenizer)
        return Resumption(
            prompt.token_ids[:start], prompt.token_ids[start:], b"", [], is_unhealed=True
        )
    ids = prompt.words_ids
    if within == "":
        return Resumption(prompt.header_ids, ids, b"", [])
    kept = _kept(ids, tokenizer, _floor(prompt, within or prompt.prefill, tokenizer))
    return _split(prompt.header_ids, ids[:kept], ids[kept:], tokenizer)


def _recalled(
    prompt: Prompt, recalled: Recalled, tokenizer: Tokenizer, within: str | None
) -> Resumption:
    kept, base = recalled.kept, recalled.prompt_token_ids
    if not recalled.pending:
        floor = 0 if within is None else _before(within, recalled.rest, tokenizer)
        end = _kept(recalled.rest, tokenizer, floor)
        spelled, draft = recalled.rest[:end], recalled.rest[end:]
        pending = _spelling(draft, tokenizer)
    else:
        spelled, draft, pending = [], recalled.rest, recalled.pending
    if prompt.is_completion:
        return Resumption([*base, *kept, *spelled], [], pending, draft)
    return Resumption(base, [*kept, *spelled], pending, draft)


def _split(before: list[int], kept: list[int], dropped: list[int], of: Tokenizer) -> Resumption:
    return Resumption(before, kept, _spelling(dropped, of), dropped)


def _spelling(ids: list[int], tokenizer: Tokenizer) -> bytes:
    return b"".join(map(tokenizer.token_bytes, ids))


def _crossing(header: list[int], ids: list[int], tokenizer: Tokenizer) -> int:
    """Index of the first of ``ids`` that reaches beyond the header."""
    left = len(_spelling(header, tokenizer))
    for index, id in enumerate(ids):
        left -= len(tokenizer.token_bytes(id))
        if left < 0:
            return index
    return len(ids)


def _floor(prompt: Prompt, words: str, tokenizer: Tokenizer) -> int:
    """How many of the words' tokens begin before the last ``words``: closed thoughts, or their opening mark."""
    text = prompt.text[prompt.answer_start : len(prompt.text) - len(words)]
    before = len(spelled(text, prompt.words_ids, tokenizer))
    floor = 0 if prompt.header_ids else 1
    for index, id in enumerate(prompt.words_ids):
        if before <= 0:
            return max(index, floor)
        before -= len(tokenizer.token_bytes(id))
    return len(prompt.words_ids) if before > 0 else floor


def _before(words: str, ids: list[int], tokenizer: Tokenizer) -> int:
    """How many of ``ids`` begin before ``words``, which end with them."""
    left, index = len(words.encode()), len(ids)
    while index and (left := left - len(tokenizer.token_bytes(ids[index - 1]))) >= 0:
        index -= 1
    return index


def _kept(ids: list[int], tokenizer: Tokenizer, floor: int) -> int:
    """How many of ``ids`` stand before the last word; at least ``floor``."""
    start = _window(ids, tokenizer, floor)
    tokens = [tokenizer.token_bytes(id) for id in ids[start:]]
    place = word_start(b"".join(tokens))
    at, kept = 0, None
    for index, token in enumerate(tokens, start):
        if kept is not None and at > place:
            break
        if token and token[0] not in _INSIDE_CHARACTER:
            kept = index
        at += len(token)
    return len(ids) if kept is None else kept


def _window(ids: list[int], tokenizer: Tokenizer, floor: int) -> int:
    """Where the tokens begin that may be taken back."""
    first = max(floor, len(ids) - MAX_BACK)
    start = len(ids)
    while start > first and not _is_wall(ids[start - 1], tokenizer):
        start -= 1
    return start


def _is_wall(id: int, tokenizer: Tokenizer) -> bool:
    """Control tokens are no text; other added tokens are matched whole, but for white space.

    Runs of spaces or newlines are added tokens in some vocabularies, and may grow.
    """
    if id in tokenizer.special_ids:
        return True
    return id in tokenizer.added_ids and not tokenizer.token_text(id).isspace()
