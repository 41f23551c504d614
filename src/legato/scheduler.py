"""Scheduler: which tokens of which sequences are computed in the coming step.

Decode tokens first, then prompt chunks of running sequences, then newly admitted ones, all under
one token budget; long prompts also under one of their own, so that they stall neither those who
decode nor short prompts. Sequences are served by priority, then arrival. When the pool is full, the
last in that order is preempted: its blocks stay in the prefix index for as long as nobody needs
them, and it is recomputed from its tokens later, with the same result.

A sequence is in exactly one place: ``waiting`` (holds nothing), ``running`` (holds a lane and
blocks for its known tokens), or among the followers of the request's first choice, until that one
has computed the prompt they share.
"""

from __future__ import annotations

import time
from bisect import bisect_left, insort
from typing import Protocol

from legato.batch import BLOCK_SIZE
from legato.cache.kv import KVCache
from legato.drafting.gain import Gain
from legato.drafting.pace import Pace
from legato.plan import Part, Plan
from legato.sequence import Sequence

FEW_RUNNING = 4
"""Sequences up to which a step has time for what a grammar guesses: with more, a row costs what it may
save."""


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
    """``max_tokens``, ``max_rows``: the budget of one step; ``max_sequences`` run at once. Of prompts with
    up to ``most_at_once`` tokens to compute no chunks are made for the sake of those who decode."""

    def __init__(
        self,
        cache: KVCache,
        pace: Pace,
        *,
        max_tokens: int,
        max_rows: int,
        max_sequences: int,
        most_at_once: int = 0,
        drafter: Drafter | None = None,
    ) -> None:
        self.cache = cache
        self.pace = pace
        self.max_tokens = max_tokens
        self.max_rows = max_rows
        self.max_sequences = max_sequences
        self.most_at_once = most_at_once
        self.waiting: list[Sequence] = []  # both in the order of service
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self._followers: dict[Sequence, list[Sequence]] = {}
        self._last = Plan(0, 0)
        self._steady: list[Part] | None = (
            None  # the last step's parts, if the next one may be the same
        )
        self._steps_in_blocks = 0  # in which none of them needs another block
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
        return self._again() or self._plan() or self._plan()

    def _again(self) -> list[Part] | None:
        """The same list as in the last step, if one token more of each of its sequences is all that there
        is to do: most steps of a server are of this kind."""
        parts, plan = self._steady, self._last
        if parts is None or self.waiting or not self._make_room():
            return None
        gain = self._gain(plan)
        if gain is not None:
            for part in parts:
                self._plan_draft(part, plan, gain)
            if plan.num_decode_rows > len(parts):
                self._steady = None
                return list(parts)
        return parts

    def _make_room(self) -> bool:
        """For one more token of each sequence that runs; False if somebody had to give way."""
        self._steps_in_blocks -= 1
        if self._steps_in_blocks >= 0:
            return True
        for sequence in self.running:
            hold, known = sequence.hold, sequence.num_tokens
            if known > hold.room and not self.cache.extend(hold, known):
                return False
        self._steps_in_blocks = min(s.hold.room - s.num_tokens for s in self.running)
        return True

    def _is_steady(self, plan: Plan) -> bool:
        """Nothing but decodes of sequences about whose next token nobody but the model thinks anything,
        or a grammar that may not guess."""
        many = len(self.running) > FEW_RUNNING
        return (
            not plan.num_prompt_tokens
            and 0 < plan.num_decode_rows == len(plan.parts) == len(self.running)
            and not self.waiting
            and self._drafter is None
            and all(
                constraint is None or (many and constraint.grammar_alone is not None)
                for constraint in (sequence.constraint for sequence in self.running)
            )
        )

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
        parts = list(plan.parts.values())
        self._steady = parts if self._is_steady(plan) else None
        self._steps_in_blocks = 0
        return parts

    def _plan_prompts(self, plan: Plan) -> None:
        """Chunks of running sequences, then new ones; of long prompts as much as decoding can wait for."""
        plan.long_left = plan.tokens_left
        decoding = plan.num_decode_rows
        if decoding:
            most = min(len(self.running) + len(self.waiting), self.max_sequences)
            long = (s.num_computed for s in self.running if s.is_long and s.num_pending > 1)
            plan.long_left = self.pace.prompt_tokens(
                decoding, most - decoding, plan.tokens_left, next(long, 0)
            )
        for sequence in self.running:
            if plan.tokens_left and sequence.num_pending > 1:
                plan.add(sequence)
        if self.waiting:
            self._plan_new(plan)

    def _gain(self, plan: Plan) -> Gain | None:
        """What guesses would bring to this step; None if nothing. Who waits for a long prompt's chunk shall
        not wait for guesses too."""
        if not plan.num_decode_rows or plan.num_long:
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
            if not plan.tokens_left or not (plan.long_left or self.most_at_once):
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
        sequence.is_long = sequence.num_pending > self.most_at_once
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
        self._steady = None
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
