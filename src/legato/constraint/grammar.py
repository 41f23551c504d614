"""Grammars: which tokens may come next in a text that follows rules (``llguidance``).

A grammar is compiled for one vocabulary and then fed: first the text that was given already, byte by
byte, since its tokens need not be those that the grammar's own text would have; then each token that
was chosen. In between it says which tokens may follow.

Compiled lexers are kept and shared: their states are found while they run, so that the second answer
under a grammar has its masks ready. ``llguidance`` locks what is shared.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer

from legato.batch import U32
from legato.constraint.tokens import WORD_BITS, TokenTable
from legato.errors import EngineError, RequestError

LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,  # 20 ms of compiling regular expressions
    max_grammar_size=200_000,  # symbols; a schema of about 2 MB
    max_items_in_row=2_000,  # alternatives open at the same place
    step_lexer_fuel=200_000,  # 15 ms for a mask
    step_max_items=10_000,  # 30 ms for a mask where all is ambiguous
    max_lexer_states=50_000,  # 1 to 2 kB each
    # Running large expressions against the whole vocabulary first takes longer than any other limit.
    precompute_large_lexemes=False,
    verbose_errors=False,
)
"""What one grammar may cost. Beyond it the grammar is refused, or its sequence ends with an error."""

KEPT = 64
"""Compiled grammars that are kept, the one used last first: clients tend to send the same ones."""

FED_AT_ONCE = 256
"""Bytes given to the grammar in one call, which does not let other threads run."""

MOST_FORCED = 256
"""Bytes of a text that must come which are spelled ahead."""

SHOWN = 24
"""Characters shown before and after the place where a text breaks the grammar."""

MARK = "⟦here⟧"
MOST_EXPECTED = 12
MOST_BEGINNINGS = 32
"""Tokens that a forced token may begin with: more than its bytes are never."""
MOST_COMPLAINT = 1000
"""Characters of what ``llguidance`` says about a grammar."""

NO_FORCING = '\n%llguidance {"no_forcing": true}\n'
"""Last line of every grammar. Otherwise a mask allows but one spelling of a text that must come,
which only a tokenizer knows; here the model chooses among all of them."""

_SPACE, *_TEXTS = LLTokenizer.general_slices()
_SLICES = [_SPACE, "[a-z]{1,30}", " [a-z]{1,30}", *_TEXTS]
"""Parts of the vocabulary that are allowed or not as a whole, where they are: 3 times as fast as none
within strings of JSON; the two of words make words counted by an expression a third faster."""

_SOURCE_LINES = re.compile(r"\n +\d+ \|.*", re.DOTALL)


class _Vocabulary:
    """A ``TokenTable`` as ``LLTokenizer`` wants to see it (``llguidance.TokenizerWrapper``)."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, table: TokenTable) -> None:
        self.eos_token_id = table.eos_ids[0]
        self.tokens = [table.token(id) for id in range(table.size)]
        self.special_token_ids = sorted(table.special_ids)

    def __call__(self, text: bytes | str) -> list[int]:
        """Never asked: with ``NO_FORCING`` nothing is tokenised."""
        raise EngineError("a grammar wanted a text split into tokens")


class GrammarVocabulary:
    """What all grammars of one vocabulary share."""

    def __init__(self, table: TokenTable) -> None:
        self.table = table
        self.kept = KEPT
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    @cached_property
    def ll_tokenizer(self) -> LLTokenizer:
        """Takes 0.1 s for 50,000 tokens, 0.7 s for 260,000."""
        return LLTokenizer(
            _Vocabulary(self.table),  # type: ignore[arg-type]
            n_vocab=self.table.size,
            eos_token=self.table.eos_ids,
            slices=_SLICES,
        )

    @cached_property
    def end_mask(self) -> U32:
        """The tokens that end a text."""
        return self.table.mask(self.table.eos_ids)

    @cached_property
    def byte_ids(self) -> list[int | None]:
        """The token that spells each single byte."""
        found = [self.table.equal(bytes([byte])) for byte in range(256)]
        return [ids[0] if ids else None for ids in found]

    def matcher(self, source: str) -> LLMatcher:
        """A fresh matcher; in an error state if the grammar cannot be used."""
        with self._lock:
            kept = self._compiled.get(source)
            if kept is not None:
                self._compiled.move_to_end(source)
                return kept.deep_copy()
        matcher = LLMatcher(self.ll_tokenizer, source + NO_FORCING, log_level=0, limits=LIMITS)
        if not matcher.is_error():
            matcher.compute_bitmask()  # some limits are met only here
        if matcher.is_error():
            return matcher
        with self._lock:
            self._compiled[source] = matcher
            while len(self._compiled) > self.kept:
                self._compiled.popitem(last=False)
        return matcher.deep_copy()

    def forget(self, source: str) -> None:
        """A lexer that has met a limit will not recover."""
        with self._lock:
            self._compiled.pop(source, None)


@lru_cache(maxsize=4)
def _vocabulary(table: TokenTable) -> GrammarVocabulary:
    return GrammarVocabulary(table)


def keep(most: int, table: TokenTable) -> None:
    """So many compiled grammars of this vocabulary are kept from now on, not ``KEPT``."""
    _vocabulary(table).kept = most


def ll_tokenizer(table: TokenTable) -> LLTokenizer:
    """The vocabulary as ``llguidance`` has it, kept for each table.

    A control token is never matched by text that is written like its name.
    """
    return _vocabulary(table).ll_tokenizer


class Grammar:
    """What may follow in one text. ``copy()`` before it is used for a second one."""

    def __init__(self, vocabulary: GrammarVocabulary, source: str, matcher: LLMatcher) -> None:
        self._vocabulary = vocabulary
        self._source = source
        self._matcher = matcher
        self._taken: int | None = None  # the token that ``take`` has accepted already

    @classmethod
    def compile(cls, source: str, table: TokenTable, field: str | None = None) -> Grammar:
        """``source``: in the language of ``legato.text.grammar``.

        Raises RequestError naming ``field``. Other threads run meanwhile.
        """
        vocabulary = _vocabulary(table)
        matcher = vocabulary.matcher(source)
        if matcher.is_error():
            raise RequestError(complaint(matcher), field)
        return cls(vocabulary, source, matcher)

    def copy(self) -> Grammar:
        """A state of its own, beginning with this one's."""
        return Grammar(self._vocabulary, self._source, self._matcher.deep_copy())

    def feed(self, text: bytes, field: str | None = None) -> None:
        """The text goes on with ``text``. Raises RequestError which shows where it must not."""
        ids, ends = self._spelled(text)
        taken = 0
        while taken < len(ids):
            some = ids[taken : taken + FED_AT_ONCE]
            count = self._matcher.try_consume_tokens(some)
            taken += count
            if count < len(some):
                break
        if self.failure is not None:
            raise RequestError(f"the grammar is too complex: {self.failure}", field)
        offset = ends[taken - 1] if taken else 0
        if offset < len(text):
            raise RequestError(self._break(text, offset), field)

    def _spelled(self, text: bytes) -> tuple[list[int], list[int]]:
        """Tokens that spell ``text``, and where each ends in it; both stop where no token fits.

        They are single bytes, so that a break is found to the byte, if the vocabulary has these.
        """
        ids = [id for byte in text if (id := self._vocabulary.byte_ids[byte]) is not None]
        if len(ids) == len(text):
            return ids, [*range(1, len(text) + 1)]
        table, ids, ends, at = self._vocabulary.table, [], [], 0
        while at < len(text) and (id := table.longest(text[at:])) is not None:
            at += len(table.token(id))
            ids.append(id)
            ends.append(at)
        return ids, ends

    def _break(self, text: bytes, offset: int) -> str:
        """Shows the character of ``text`` that byte ``offset`` is a part of."""
        while offset and text[offset] & 0xC0 == 0x80:  # inside a character
            offset -= 1
        before = text[:offset].decode("utf-8", "replace")
        after = text[offset:].decode("utf-8", "replace")
        cut = "..." if len(before) > SHOWN else ""
        shown = f"{cut}{before[-SHOWN:]}{MARK}{after[:SHOWN]}{'...' if len(after) > SHOWN else ''}"
        return (
            f"the given text breaks the grammar at character {len(before)}, marked {MARK}: {shown}"
            f"{self._expected()}"
        )

    def _expected(self) -> str:
        """What the text may go on with, if there are few possibilities."""
        if self.is_finished:
            return " (it must end there)"
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)
        allowed = [
            repr(chr(byte))
            for byte in range(0x80)
            if (id := self._vocabulary.byte_ids[byte]) is not None and bits[id // 32] >> id % 32 & 1
        ]
        return f" (possible: {' '.join(allowed)})" if 0 < len(allowed) <= MOST_EXPECTED else ""

    def take(self, token_id: int) -> bool:
        """Accepts a token if it may follow: one question less than ``would_accept`` and ``accept``.

        Until ``accept`` is told of that token, nothing else may be asked. A second ``take`` changes
        nothing.
        """
        if self._taken is not None:
            return self._taken == token_id
        if not self._matcher.try_consume_tokens([token_id]) and not self._ends_with(token_id):
            return False
        self._taken = token_id
        return True

    def accept(self, token_id: int) -> None:
        """``token_id`` was chosen. Raises EngineError if it must not follow, a limit is met, or
        another token was taken."""
        taken, self._taken = self._taken, None
        if taken is not None:
            if taken != token_id:
                raise EngineError(f"the grammar has taken token {taken}, not {token_id}")
        elif not self._matcher.consume_token(token_id):
            raise EngineError(f"the grammar cannot go on: {self.failure}")

    def would_accept(self, token_ids: Sequence[int]) -> int:
        """How many of the tokens may follow, one after the other; one that ends the answer may where
        the text may."""
        count = self._matcher.validate_tokens([*token_ids])
        return count or int(len(token_ids) > 0 and self._ends_with(token_ids[0]))

    def is_end(self, token_id: int) -> bool:
        """Whether nothing comes behind this token."""
        return token_id in self._vocabulary.table.eos_ids

    def _ends_with(self, token_id: int) -> bool:
        """A token ends a text that must end here: the matcher refuses it then."""
        return self.is_finished and self.is_end(token_id)

    def draft(self, most: int) -> list[int]:
        """Up to ``most`` tokens that spell text which must come, probably as the model would."""
        forced = self._matcher.compute_ff_bytes()[:MOST_FORCED]
        if len(forced) < 2 or most <= 0:
            return []
        text = forced.decode("utf-8", "ignore")
        # What follows may go into the last token.
        return self._vocabulary.ll_tokenizer.greedy_tokenize(text)[:-1][:most]

    def only_spelling(self, allowed: U32, draft: Sequence[int] = ()) -> int | None:
        """The token for text that must come behind ``draft``, if it must: the longest of ``allowed``.

        So its spelling does not depend on where an answer was cut, or what was drafted.
        """
        table = self._vocabulary.table
        if not draft and not self._matcher.compute_ff_bytes():  # most often, and found out at once
            return None
        longest = longest_beginning(allowed, table)
        if longest is None:
            return None
        after = self.copy() if draft else self
        for token in draft:
            after.accept(token)
        forced = after._matcher.compute_ff_bytes()
        return longest if forced.startswith(table.token(longest)) else None

    @property
    def mask_words(self) -> int:
        """Of 32 bits, in a mask."""
        return -(-self._vocabulary.table.size // WORD_BITS)

    @property
    def is_accepting(self) -> bool:
        """The text may end here."""
        return self._matcher.is_accepting()

    @property
    def is_finished(self) -> bool:
        """The text must end here."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    @property
    def failure(self) -> str | None:
        """Why the grammar can tell nothing any more: a limit was met, or a wrong token accepted."""
        if not self._matcher.is_error():
            return None
        self._vocabulary.forget(self._source)
        return complaint(self._matcher)


def complaint(matcher: LLMatcher) -> str:
    """The error that a matcher is in, without what it says of itself and of ``NO_FORCING``."""
    said = matcher.get_error().partition("\n<")[0].strip()
    if said.startswith("NoExtension"):
        return "no text fits the grammar"
    if said.startswith("panic"):
        return "the grammar is too large"
    _, is_schema, rest = said.partition("failed to compile JSON schema: ")
    if is_schema:  # the lines with "|" show a source that the client did not write
        said = _SOURCE_LINES.sub("", rest)
    lines = [line for line in said.splitlines() if NO_FORCING.strip() not in line]
    return "\n".join(_shortened(line, 160) for line in lines).strip()[:MOST_COMPLAINT]


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def longest_beginning(mask: U32, table: TokenTable) -> int | None:
    """The longest of the allowed tokens if all others are beginnings of it, else None."""
    words = np.flatnonzero(mask)
    if not 0 < len(words) <= MOST_BEGINNINGS:
        return None
    bits = np.flatnonzero(np.unpackbits(mask[words].view(np.uint8), bitorder="little"))
    if len(bits) > MOST_BEGINNINGS:
        return None
    ids = [int(words[bit // 32]) * 32 + bit % 32 for bit in bits.tolist()]
    longest = max(ids, key=lambda id: len(table.token(id)))
    text = table.token(longest)
    is_one = all(id not in table.special_ids and text.startswith(table.token(id)) for id in ids)
    return longest if is_one else None


# Its thread is never woken: that takes as long as a mask, so it is given one job at a time.
_executor = LLExecutor(1)


def fill_masks(
    jobs: Sequence[tuple[Grammar, int, Sequence[int]]], masks: U32
) -> list[tuple[int, str]]:
    """Which tokens may follow, for many grammars at once; other threads run meanwhile.

    ``masks``: uint32 [M, ceil(vocabulary / 32)]. A job's row ``row`` is for its grammar as it stands,
    the rows behind it for what comes after each token of its draft; no grammar is changed by this.
    A row behind a token that must not come allows the end only. Returns the jobs that failed, with
    the reason; their rows allow the end only, too.
    """
    address, row_bytes = masks.ctypes.data, masks.strides[0]
    for grammar, row, draft in jobs:
        if row < 0 or row + len(draft) >= len(masks):
            raise ValueError(f"a job has rows {row} to {row + len(draft)}, there are {len(masks)}")
        if draft:
            masks[row : row + len(draft) + 1] = grammar._vocabulary.end_mask
            job = (grammar._matcher, row, [*draft])
            _executor.unsafe_compute_mask_ptr_with_draft_token(
                [job], address, row_bytes, len(masks)
            )
        else:
            grammar._matcher.unsafe_compute_mask_ptr(address + row * row_bytes, row_bytes)
    failed = []
    for index, (grammar, row, draft) in enumerate(jobs):
        if (failure := grammar.failure) is not None:
            masks[row : row + len(draft) + 1] = grammar._vocabulary.end_mask
            failed.append((index, failure))
    return failed
