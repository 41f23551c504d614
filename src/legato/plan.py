"""What one step computes: a part of each sequence that takes part, within a budget."""

from __future__ import annotations

from dataclasses import dataclass, field

from legato.sequence import Sequence


@dataclass(slots=True)
class Part:
    """``count`` known tokens of a sequence, from its first uncomputed one, then those of ``draft``.

    ``num_forced`` rows, from the part's row ``first_forced``, want the log-probability of the given
    token that follows them. ``samples``: the last known token's row yields a token, and each of the
    draft's rows another one, if the tokens before it turn out as drafted.
    """

    sequence: Sequence
    count: int
    first_forced: int = 0
    num_forced: int = 0
    samples: bool = False
    draft: tuple[int, ...] = ()

    @classmethod
    def of(cls, sequence: Sequence, count: int) -> Part:
        part = cls(sequence, count, samples=count == sequence.num_pending)
        if sequence.wants_prompt_logprobs:
            known = len(sequence.prompt_logprobs)
            part.first_forced = max(known - sequence.num_computed, 0)
            last = min(count, sequence.num_given - 1 - sequence.num_computed)
            part.num_forced = max(last - part.first_forced, 0)
        return part

    @property
    def is_plain(self) -> bool:
        """One token that decides about the next, of which nothing else is wanted or known, but that a
        grammar allows it."""
        sequence = self.sequence
        return (
            self.count == 1
            and self.samples
            and not self.draft
            and sequence.is_announced
            and sequence.params.logprobs is None
            and (sequence.constraint is None or sequence.constraint.grammar_alone is not None)
        )

    @property
    def num_tokens(self) -> int:
        return self.count + len(self.draft)

    @property
    def num_rows(self) -> int:
        """Rows that want logits."""
        return self.num_forced + self.samples + len(self.draft)


@dataclass(slots=True)
class Plan:
    """The parts of one step, and what is left of its budget. ``long_left``: of it, for long prompts."""

    tokens_left: int
    rows_left: int
    parts: dict[Sequence, Part] = field(default_factory=dict)
    long_left: int = 0
    num_decode_rows: int = 0
    num_prompt_tokens: int = 0
    sum_positions: int = 0  # of the prompts' tokens
    num_long: int = 0  # parts of long prompts

    @property
    def depth(self) -> int:
        """The mean position of the prompts' tokens."""
        return self.sum_positions // max(self.num_prompt_tokens, 1)

    def add(self, sequence: Sequence) -> None:
        """As many pending tokens of the sequence as fit; possibly none."""
        most = min(self.tokens_left, self.long_left) if sequence.is_long else self.tokens_left
        count = min(sequence.num_pending, most)
        part = Part.of(sequence, count)
        while (excess := part.num_rows - self.rows_left) > 0:
            part = Part.of(sequence, part.count - excess)  # each token brings at most one row
        if part.count > 0:
            self.parts[sequence] = part
            self._count_prompt(part, 1)

    def add_draft(self, sequence: Sequence, draft: list[int]) -> None:
        """Behind a part that samples."""
        self.parts[sequence].draft = tuple(draft)
        self.tokens_left -= len(draft)
        self.rows_left -= len(draft)
        self.num_decode_rows += len(draft)

    def add_decode(self, sequence: Sequence) -> None:
        """Its one pending token. There are rows for all decodes."""
        self.parts[sequence] = Part(sequence, 1, samples=True)
        self.tokens_left -= 1
        self.rows_left -= 1
        self.num_decode_rows += 1

    def remove(self, sequence: Sequence) -> None:
        """Takes back what was added, if it was; nothing has been drafted behind it yet."""
        part = self.parts.pop(sequence, None)
        if part is None:
            return
        if sequence.num_pending > 1:
            self._count_prompt(part, -1)
            return
        self.tokens_left += 1
        self.rows_left += 1
        self.num_decode_rows -= 1

    def _count_prompt(self, part: Part, sign: int) -> None:
        sequence, count = part.sequence, sign * part.count
        self.tokens_left -= count
        self.rows_left -= sign * part.num_rows
        self.num_prompt_tokens += count
        self.sum_positions += count * (sequence.num_computed + part.count // 2)
        if sequence.is_long:
            self.long_left -= count
            self.num_long += sign
