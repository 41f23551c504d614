"""The token ids of recent answers, so that a continuation goes on from the model's very own tokens.

Text alone does not tell how it was spelled: a model now and then writes a word in other tokens than the
tokenizer would. An answer is kept under what it answered: a chat's under the ids of its header, a
completion's under its prompt's text. Entries grow while their answers do, so a client that lost its
connection finds its answer at once. Of most prompts only hashes are kept.

    given words            what is taken
    end with a token       the remembered tokens up to there
    end inside a token     those before it; it is spelled again
    deviate, or go on      those before the last common word, then the tokenizer's
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from legato.text.beginning import Beginning, hash_of_ids, hash_of_text
from legato.text.continuation import Prompt
from legato.text.resumption import Resumption
from legato.text.trace import Agreement, Trace, Words, word_start, words_of
from legato.text.vocabulary import Tokenizer


@dataclass(frozen=True)
class Recalled:
    """Where a remembered answer leads.

    ``rest`` spells what ``kept`` does not: the remembered token inside which the words end (then
    ``pending`` is what was given of it), or the tokenizer's ids of words that are not remembered.
    """

    prompt_token_ids: list[int]
    kept: list[int]
    rest: list[int]
    pending: bytes

    @property
    def is_whole(self) -> bool:
        """The words end where a remembered token does."""
        return not self.rest


class Remembered:
    """One answer while it grows."""

    def __init__(self, memory: AnswerMemory | None, key: _Key, ids: Iterable[int] = ()) -> None:
        self.key = key
        self.trace = Trace(ids)
        self.beginning: Beginning | None = None
        self.foreign = (
            0  # bytes of its words that were given without healing: whose tokens nobody chose
        )
        self._memory = memory

    @property
    def size(self) -> int:
        """Token ids that are kept."""
        return len(self.trace) + (0 if self.beginning is None else len(self.beginning.own))

    def extend(self, token_ids: Sequence[int]) -> None:
        """Tokens came."""
        if self._memory is not None:
            self.trace.ids.extend(token_ids)
            self._memory.grew(self, len(token_ids))

    def forget(self) -> None:
        """The memory has no room for it any more."""
        self._memory = None


_Key = tuple[str, bytes]  # salt; hash of a chat's header, nothing for completions


class AnswerMemory:
    """Answers, the least recently used of which make room. For one thread."""

    def __init__(self, max_tokens: int = 1 << 18, max_answers: int = 1024) -> None:
        self._max_tokens = max_tokens
        self._max_answers = max_answers
        self._tokens = 0
        self._used: OrderedDict[Remembered, None] = OrderedDict()  # least recently used first
        self._by_key: dict[_Key, list[Remembered]] = {}  # latest last

    def __len__(self) -> int:
        return len(self._used)

    @property
    def tokens(self) -> int:
        """Token ids that are kept."""
        return self._tokens

    def begin(self, salt: str, prompt: Prompt, resumption: Resumption) -> Remembered:
        """An answer starts; what comes of it is told to the result."""
        if not prompt.is_text:
            return Remembered(None, (salt, b""))
        if prompt.is_completion:
            remembered = Remembered(self, (salt, b""))
            remembered.beginning = Beginning.of(prompt, resumption)
        else:
            header = _header(prompt)
            if resumption.prompt_token_ids != header:  # a token crosses the seam
                return Remembered(None, (salt, b""))
            remembered = Remembered(self, (salt, hash_of_ids(header)), resumption.output_token_ids)
            if resumption.is_unhealed:
                remembered.foreign = len(prompt.text[prompt.answer_start :].encode())
        self._by_key.setdefault(remembered.key, []).append(remembered)
        self._used[remembered] = None
        self.grew(remembered, remembered.size)
        return remembered

    def recall(self, salt: str, prompt: Prompt, tokenizer: Tokenizer) -> Recalled | None:
        """What is remembered of the prompt's words: the longest match, the latest of equals."""
        if prompt.is_completion:
            found = self._recall_completion(salt, prompt, tokenizer)
        else:
            found = self._recall_chat(salt, prompt, tokenizer)
        if found is None:
            return None
        self._used.move_to_end(found.remembered)
        return found.recalled(tokenizer)

    def grew(self, remembered: Remembered, tokens: int) -> None:
        """Keeps the bounds."""
        self._tokens += tokens
        self._used.move_to_end(remembered)
        while self._tokens > self._max_tokens or len(self._used) > self._max_answers:
            self._drop(next(iter(self._used)))

    def check_integrity(self) -> None:
        """Raises AssertionError if what is counted, used and found by key are not the same."""
        filed = [answer for answers in self._by_key.values() for answer in answers]
        assert set(filed) == set(self._used) and len(filed) == len(self._used)
        assert all(self._by_key.values())
        assert self._tokens == sum(answer.size for answer in filed)

    def _drop(self, remembered: Remembered) -> None:
        del self._used[remembered]
        self._tokens -= remembered.size
        siblings = self._by_key[remembered.key]
        siblings.remove(remembered)
        if not siblings:
            del self._by_key[remembered.key]
        remembered.forget()

    def _recall_chat(self, salt: str, prompt: Prompt, tokenizer: Tokenizer) -> _Match | None:
        header = _header(prompt)
        answers = self._by_key.get((salt, hash_of_ids(header)), ())
        words = words_of(prompt.text[prompt.answer_start :], prompt.words_ids, tokenizer)
        best: _Match | None = None
        for remembered in reversed(answers):
            if not _may_be_better(remembered, words, remembered.foreign, best, tokenizer):
                continue
            agreement = remembered.trace.agreement(words, tokenizer)
            if agreement.common <= remembered.foreign:
                continue
            match = _Match(remembered, header, words, agreement, prompt.words_ids)
            if match.is_better(best):
                best = match
            if agreement.is_full:
                break
        return best

    def _recall_completion(self, salt: str, prompt: Prompt, tokenizer: Tokenizer) -> _Match | None:
        best: _Match | None = None
        known: dict[tuple[int, bytes], Words] = {}
        for remembered in self._begun_alike(salt, prompt.text):
            beginning = remembered.beginning
            assert beginning is not None
            start = (beginning.length, beginning.pending)
            if start not in known:
                known[start] = beginning.words_in(prompt, tokenizer)
            words = known[start]
            if not _may_be_better(remembered, words, len(beginning.pending), best, tokenizer):
                continue
            agreement = remembered.trace.agreement(words, tokenizer)
            match = _Match(remembered, [], words, agreement, prompt.token_ids)
            if agreement.common <= len(beginning.pending) or not match.is_better(best):
                continue
            ids = beginning.ids_in(prompt, tokenizer)
            if ids is not None:
                best = match._replace(prompt_token_ids=ids)
                if agreement.is_full:
                    break
        return best

    def _begun_alike(self, salt: str, text: str) -> Iterator[Remembered]:
        """Answers to prompts with which ``text`` begins, the latest first."""
        hashes: dict[int, bytes] = {}
        for remembered in reversed(self._by_key.get((salt, b""), ())):
            beginning = remembered.beginning
            assert beginning is not None
            length = beginning.length
            if beginning.may_begin(text):
                if length not in hashes:
                    hashes[length] = hash_of_text(text[:length])
                if hashes[length] == beginning.text:
                    yield remembered


class _Match(NamedTuple):
    remembered: Remembered
    prompt_token_ids: list[int]
    words: Words
    agreement: Agreement
    usual: list[int]  # ids that end with those of the words, as the tokenizer makes them

    @property
    def missing(self) -> int:
        """Bytes of the words that are not remembered."""
        return len(self.words.plain) - self.agreement.common

    def is_better(self, best: _Match | None) -> bool:
        return best is None or self.missing < best.missing

    def recalled(self, tokenizer: Tokenizer) -> Recalled | None:
        if not self.agreement.is_full:
            return self._partly(tokenizer)
        trace, given = self.remembered.trace, len(self.words.plain)
        count = trace.whole(given, self.agreement.least)
        if trace.end(count) == given:
            return Recalled(self.prompt_token_ids, trace.ids[:count].tolist(), [], b"")
        count = trace.before(given)
        return Recalled(
            self.prompt_token_ids,
            trace.ids[:count].tolist(),
            [trace.ids[count]],
            self.words.plain[trace.end(count) :],
        )

    def _partly(self, tokenizer: Tokenizer) -> Recalled | None:
        """Up to a place before the last common word where the tokenizer's own ids have an end too."""
        if self.words.controls:
            return None
        plain, trace = self.words.plain, self.remembered.trace
        usual = _ends_from_back(self.usual, len(plain), tokenizer)
        count = trace.whole(word_start(plain[: self.agreement.common]))
        while count and trace.end(count) not in usual:
            count = trace.whole(trace.end(count) - 1)
        if not count:
            return None
        at = trace.end(count)
        rest = self.usual[usual[at] :]
        if b"".join(map(tokenizer.token_bytes, rest)) != plain[at:]:  # it was normalised
            return None
        return Recalled(self.prompt_token_ids, trace.ids[:count].tolist(), rest, b"")


def _may_be_better(
    remembered: Remembered, words: Words, least: int, best: _Match | None, tokenizer: Tokenizer
) -> bool:
    """A quick check: more than ``least`` bytes of the words, and more than the best has, are its own. One
    question may have been answered in a thousand ways."""
    needed = least if best is None else max(least, len(words.plain) - best.missing)
    return remembered.trace.begins_with(words.plain[: needed + 1], tokenizer)


def _ends_from_back(ids: list[int], length: int, tokenizer: Tokenizer) -> dict[int, int]:
    """Offset in the last ``length`` bytes -> index of the token that begins there."""
    found: dict[int, int] = {}
    at = length
    for index in range(len(ids) - 1, -1, -1):
        at -= len(tokenizer.token_bytes(ids[index]))
        if at <= 0:
            break
        found[at] = index
    return found


def _header(prompt: Prompt) -> list[int]:
    return prompt.header_ids if prompt.continues else prompt.token_ids
