"""Scheduler: which tokens of which sequences are computed in the coming step.

Decode tokens first, then prompt chunks of running sequences, then newly admitted ones, all under
one token budget. Sequences are served by priority, then arrival. When the pool is full, the last in
that order is preempted: its blocks stay in the prefix index for as long as nobody needs them, and
it is recomputed from its tokens later, with the same result.

A sequence is in exactly one place: ``waiting`` (holds nothing), ``running`` (holds a lane and
blocks for its known tokens), or among the followers of the request's first choice, until that one
has computed the prompt they share.
"""

from __future__ import annotations

import time
from bisect import bisect_left, insort
from dataclasses import dataclass, field
from typing import Protocol

from legato.batch import BLOCK_SIZE
from legato.cache.kv import KVCache
from legato.drafting.gain import Gain
from legato.drafting.pace import Pace
from legato.sequence import Sequence

FEW_RUNNING = 4
"""Sequences up to which a step has time for what a grammar guesses: with more, a row costs what it may
save."""


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
    """The parts of one step, and what is left of its budget. ``prompt_left``: of it, for prompts."""

    tokens_left: int
    rows_left: int
    parts: dict[Sequence, Part] = field(default_factory=dict)
    prompt_left: int = 0
    num_decode_rows: int = 0
    num_prompt_tokens: int = 0
    sum_positions: int = 0  # of the prompts' tokens

    @property
    def depth(self) -> int:
        """The mean position of the prompts' tokens."""
        return self.sum_positions // max(self.num_prompt_tokens, 1)

    def add(self, sequence: Sequence) -> None:
        """As many pending tokens of the sequence as fit; possibly none."""
        count = min(sequence.num_pending, self.prompt_left)
        part = Part.of(sequence, count)
        while (excess := part.num_rows - self.rows_left) > 0:
            part = Part.of(sequence, part.count - excess)  # each token brings at most one row
        if part.count > 0:
            self.parts[sequence] = part
            self.tokens_left -= part.count
            self.prompt_left -= part.count
            self.num_prompt_tokens += part.count
            self.sum_positions += part.count * (sequence.num_computed + part.count // 2)
            self.rows_left -= part.num_rows

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
        part = self.parts.pop(sequence, None)
        if part is not None:
            self.tokens_left += part.num_tokens
            self.rows_left += part.num_rows


class Drafter(Protocol):
    """What guesses where nothing was said before: ``draft_model.DraftModel``."""

    seconds: float  # that ``draft`` took last

    def draft(
        self, asked: dict[Sequence, int], decoding: int, pace: Pace
    ) -> dict[Sequence, list[int]]: ...

    def forget(self, sequence: Sequence) -> None: ...


def comes_first(running: Sequence, waiting: Sequence) -> bool:
    """Whether ``running`` is about to compute at least half of what ``waiting`` needs."""
    if running.hold.salt != waiting.hold.salt:
        return False
    common = min(running.common_length(waiting), waiting.num_reusable)
    shared = common // BLOCK_SIZE * BLOCK_SIZE
    found = running.num_computed // BLOCK_SIZE * BLOCK_SIZE  # already
    return shared > running.num_computed and 2 * (shared - found) >= waiting.num_tokens - found


def _take(sequence: Sequence, group: list[Sequence]) -> bool:
    """Takes it out of the group, which is in the order of service; whether it was there."""
    index = bisect_left(group, sequence.key, key=lambda s: s.key)
    found = index < len(group) and group[index] is sequence
    if found:
        del group[index]
    return found


class Scheduler:
    """``max_tokens``, ``max_rows``: the budget of one step; ``max_sequences`` run at once."""

    def __init__(
        self,
        cache: KVCache,
        pace: Pace,
        *,
        max_tokens: int,
        max_rows: int,
        max_sequences: int,
        drafter: Drafter | None = None,
    ) -> None:
        self.cache = cache
        self.pace = pace
        self.max_tokens = max_tokens
        self.max_rows = max_rows
        self.max_sequences = max_sequences
        self.waiting: list[Sequence] = []  # both in the order of service
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self._followers: dict[Sequence, list[Sequence]] = {}
        self._last = Plan(0, 0)
        self._drafter = drafter
        self._drafting = 0.0  # seconds of the last step that its guesses took

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def num_waiting(self) -> int:
        return len(self.waiting) + sum(map(len, self._followers.values()))

    @property
    def sequences(self) -> list[Sequence]:
        """All that are not finished."""
        followers = [follower for group in self._followers.values() for follower in group]
        return self.running + self.waiting + followers

    def add(self, choices: list[Sequence]) -> None:
        """Queues the choices of a request: the first at once, the others behind it."""
        leader, *followers = choices
        insort(self.waiting, leader, key=lambda s: s.key)
        if followers:
            self._followers[leader] = followers

    def rank(self, choices: list[Sequence], priority: int) -> None:
        """The choices of a request have this priority from now on, wherever they are."""
        for sequence in choices:
            groups = [group for group in (self.waiting, self.running) if _take(sequence, group)]
            sequence.rank(priority)
            for group in groups:
                insort(group, sequence, key=lambda s: s.key)

    def schedule(self) -> list[Part]:
        """The parts of the coming step, decodes first; their sequences hold what they need.

        Empty only without work. A preemption may leave nothing, when the victim had taken the whole
        budget and the more urgent sequence still has no room; the others have their turn then.
        """
        return self._plan() or self._plan()

    def _plan(self) -> list[Part]:
        self._last = plan = Plan(self.max_tokens, self.max_rows)
        others = self._plan_decodes(plan)
        if others or self.waiting:
            self._plan_prompts(plan)
        gain = self._gain(plan)
        for part in plan.parts.values():
            if part.samples and (gain is not None or part.sequence.constraint is not None):
                self._plan_draft(part, plan, gain)
        self._drafting = 0.0
        if self._drafter is not None and plan.num_decode_rows and not plan.num_prompt_tokens:
            self._plan_guesses(plan, self._drafter)
        return list(plan.parts.values())

    def _plan_prompts(self, plan: Plan) -> None:
        """Chunks of running sequences, then new ones, as much as decoding can wait for."""
        plan.prompt_left = plan.tokens_left
        decoding = plan.num_decode_rows
        if decoding:
            most = min(len(self.running) + len(self.waiting), self.max_sequences)
            depth = next((s.num_computed for s in self.running if s.num_pending > 1), 0)
            plan.prompt_left = self.pace.prompt_tokens(
                decoding, most - decoding, plan.tokens_left, depth
            )
        for sequence in self.running:
            if plan.prompt_left and sequence.num_pending > 1:
                plan.add(sequence)
        if self.waiting:
            self._plan_new(plan)

    def _gain(self, plan: Plan) -> Gain | None:
        """What guesses would bring to this step; None if nothing."""
        if not plan.num_decode_rows:
            return None
        gain = Gain(plan.num_decode_rows, self.pace.row_cost(plan.num_decode_rows))
        return gain if gain.is_possible else None

    def _plan_draft(self, part: Part, plan: Plan, gain: Gain | None) -> None:
        """What is left of the budget, and no other's blocks, may go into drafts."""
        sequence = part.sequence
        most = min(plan.tokens_left, plan.rows_left)
        if part.count > 1:
            gain = None  # the first token is waited for
        self._add_draft(
            sequence, sequence.draft(most, gain, guesses=len(self.running) <= FEW_RUNNING), plan
        )

    def _plan_guesses(self, plan: Plan, drafter: Drafter) -> None:
        """Of a draft model, where nothing else is known of what comes next."""
        asked = [part.sequence for part in plan.parts.values() if part.samples and not part.draft]
        most = min(plan.tokens_left, plan.rows_left) // max(len(asked), 1)
        limits = {sequence: min(sequence.most_guesses, most) for sequence in asked}
        drafts = drafter.draft(limits, len(plan.parts), self.pace)
        self._drafting = drafter.seconds
        for sequence, draft in drafts.items():
            sequence.is_guessing = True
            self._add_draft(sequence, draft, plan)

    def _add_draft(self, sequence: Sequence, draft: list[int], plan: Plan) -> None:
        room = sequence.num_tokens + len(draft)
        if draft and self.cache.can_extend(sequence.hold, room, spare=len(self.running)):
            self.cache.extend(sequence.hold, room)
            plan.add_draft(sequence, draft)

    def _plan_decodes(self, plan: Plan) -> bool:
        """Returns whether there are running sequences that do not decode yet."""
        index, others = 0, False
        while index < len(self.running) and plan.tokens_left:
            sequence = self.running[index]
            if sequence.num_pending == 1:
                while sequence.num_tokens > sequence.hold.room and not self.cache.extend(
                    sequence.hold, sequence.num_tokens
                ):
                    victim = self.running[-1]
                    self._preempt(victim, plan)
                    if victim is sequence:
                        return others
                plan.add_decode(sequence)
            else:
                others = True
            index += 1
        return others

    def _plan_new(self, plan: Plan) -> None:
        prefilling = [sequence for sequence in self.running if sequence.num_pending > 1]
        expected = 0  # sequences that will soon take a place
        for sequence in self.waiting.copy():
            if not plan.prompt_left:
                return
            if len(self.running) + expected < self.max_sequences and any(
                comes_first(other, sequence) for other in prefilling
            ):
                expected += 1
                continue  # it will find in the cache what it would compute twice now
            if expected and len(self.running) + expected >= self.max_sequences:
                return
            if not self._admit(sequence, plan):
                return
            self.waiting.remove(sequence)
            plan.add(sequence)
            prefilling.append(sequence)

    def _admit(self, sequence: Sequence, plan: Plan) -> bool:
        """Gives a waiting sequence its blocks, if need be those of less urgent ones."""
        while not (len(self.running) < self.max_sequences and self._claim(sequence)):
            victim = self.running[-1] if self.running else sequence
            if victim.priority <= sequence.priority:
                return False
            self._preempt(victim, plan)
        insort(self.running, sequence, key=lambda s: s.key)
        return True

    def _claim(self, sequence: Sequence) -> bool:
        # A block for each running sequence stays available: no preemption for BLOCK_SIZE steps.
        found = self.cache.claim(
            sequence.hold, sequence.ids, sequence.num_reusable, spare=len(self.running)
        )
        if found is None:
            return False
        sequence.num_computed = found
        if sequence.num_cached is None:
            sequence.num_cached = min(found, sequence.num_given)
            sequence.scheduled_at = time.monotonic()
        return True

    def _preempt(self, victim: Sequence, plan: Plan) -> None:
        """Back to the queue. The victim is the last of the running ones."""
        self.running.pop()
        plan.remove(victim)
        self._release(victim)
        insort(self.waiting, victim, key=lambda s: s.key)
        self.num_preemptions += 1

    def ran(self, seconds: float) -> None:
        """The step that was planned last took so long."""
        plan = self._last
        seconds -= self._drafting
        self.pace.learn(plan.num_decode_rows, plan.num_prompt_tokens, seconds, plan.depth)

    def computed(self, part: Part) -> None:
        """The step has run: counts the part's tokens, whose blocks others may now use."""
        sequence = part.sequence
        sequence.num_computed += part.count
        hold = sequence.hold
        if hold.copy is not None:
            self.cache.copied(hold)
        if sequence.num_computed >= hold.num_indexed + BLOCK_SIZE:
            self.cache.index_full(hold, sequence.ids, sequence.num_computed)
        if self._followers and sequence in self._followers and sequence.is_given_computed:
            self.cache.index_tail(sequence.hold, sequence.ids, sequence.num_computed)
            for follower in self._followers.pop(sequence):
                follower.num_cached = sequence.num_cached
                insort(self.waiting, follower, key=lambda s: s.key)

    def remove(self, sequence: Sequence) -> None:
        """It is finished or cancelled, wherever it is."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        else:
            for group in self._followers.values():
                if sequence in group:
                    group.remove(sequence)
        if followers := self._followers.pop(sequence, None):  # the prompt is not computed
            self.add(followers)

    def _release(self, sequence: Sequence) -> None:
        if self._drafter is not None:
            self._drafter.forget(sequence)
        self.cache.index_tail(sequence.hold, sequence.ids, sequence.num_computed)
        self.cache.release(sequence.hold)
        sequence.num_computed = 0
