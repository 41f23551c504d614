"""A smaller model with the same vocabulary guesses what the model will say.

Each sequence has a shadow: the same tokens and sampling parameters, its own place in a KV cache of the draft
model's. Guesses are drawn under the sequence's parameters by its own random numbers, which depend on seed and
position alone: where the two models think alike they draw alike, at any temperature. What stands is still
each row's own choice, so answers are the same with any draft model (after Leviathan et al. 2023).
"""

from __future__ import annotations

from time import perf_counter
from typing import Protocol

import msgspec

from legato.cache.kv import KVCache
from legato.config import EngineConfig
from legato.drafting.lengths import Acceptance, best_length
from legato.drafting.pace import Pace
from legato.models.info import ModelInfo
from legato.packing import Packer
from legato.plan import Part
from legato.runner import Program, Runner
from legato.sequence import Sequence

MOST = 8
"""Guesses of one sequence in one step."""

Key = tuple[int, int]
"""``Sequence.place``: whose shadow it is."""


class Shadow:
    """``sequence``: another one as the draft model sees it, with its own guesses at the end."""

    def __init__(self, of: Sequence, max_len: int, prior: float) -> None:
        ids = of.ids.tolist()
        request = msgspec.structs.replace(
            of.request,
            prompt_token_ids=ids[: of.num_prompt],
            output_token_ids=ids[of.num_prompt :],
            params=msgspec.structs.replace(of.params, logprobs=None, prompt_logprobs=None),
        )
        self.sequence = Sequence(request, of.index, of.place[0], max_len, of.hold.salt)
        self.acceptance = Acceptance(prior)
        self.num_known = of.num_tokens
        self.num_guessed = 0

    def follow(self, of: Sequence, overall: Acceptance) -> int:
        """Takes over what was said, and learns how good the guesses were. Returns how many leading
        tokens are as they were thought."""
        same = self.sequence.follow(of)
        checked = min(self.num_guessed, of.num_tokens - self.num_known)
        right = min(same - self.num_known, checked)
        if checked:
            for acceptance in (self.acceptance, overall):
                acceptance.learn(right, failed=right < checked)
        self.num_known, self.num_guessed = of.num_tokens, 0
        return same

    def guessed(self) -> list[int]:
        """What was drawn since ``follow``."""
        found: list[int] = self.sequence.ids[self.num_known :].tolist()
        self.num_guessed = len(found)
        return found


class Loaded(Protocol):
    """What ``models.load`` gives of a model."""

    @property
    def program(self) -> Program: ...

    @property
    def info(self) -> ModelInfo: ...


class DraftModel:
    """``cost``: what one of its rounds takes, in steps of the model, until that is measured."""

    def __init__(
        self,
        program: Program,
        *,
        vocab_size: int,
        num_blocks: int,
        max_model_len: int,
        max_num_seqs: int,
        max_tokens: int,
        cost: float,
    ) -> None:
        self._cache = KVCache(num_blocks, max_num_seqs, max_model_len)
        self._packer = Packer(self._cache, vocab_size, max_num_seqs)
        self._runner = Runner(program)
        self._max_len = max_model_len
        self._max_tokens = max_tokens
        self._cost = cost
        self._pace = Pace()
        self._shadows: dict[Key, Shadow] = {}
        self._overall = Acceptance()  # what a new sequence is expected to be like
        self.seconds = 0.0  # that it took in the last step

    @classmethod
    def of(cls, draft: Loaded, info: ModelInfo, config: EngineConfig) -> DraftModel:
        """``info``: of the model that it helps."""
        return cls(
            draft.program,
            vocab_size=info.vocab_size,
            num_blocks=draft.info.num_blocks,
            max_model_len=draft.info.max_model_len,
            max_num_seqs=config.max_num_seqs,
            max_tokens=config.max_num_batched_tokens,
            cost=draft.info.weight_bytes / max(info.weight_bytes, 1),
        )

    def draft(
        self, asked: dict[Sequence, int], decoding: int, pace: Pace
    ) -> dict[Sequence, list[int]]:
        """Guesses for sequences that decode, at most so many for each; ``decoding`` do in all.

        Where the draft model has much to read first, guesses come in a later step.
        """
        started = perf_counter()
        found = self._draft(asked, decoding, pace)
        self.seconds = perf_counter() - started
        return found

    def _draft(
        self, asked: dict[Sequence, int], decoding: int, pace: Pace
    ) -> dict[Sequence, list[int]]:
        step = pace.seconds(decoding)
        asked = {s: most for s, most in asked.items() if most > 0 and s.num_tokens < self._max_len}
        if step is None or not asked:
            return {}
        chances = [self._acceptance(sequence).chance for sequence in asked]
        seconds = self._pace.seconds(len(asked))
        cost = self._cost if seconds is None else seconds / step
        most = min(MOST, max(asked.values()))
        length = best_length(chances, decoding, pace.row_cost(decoding), cost, most)
        if length == 0:
            for sequence in asked:
                self._acceptance(sequence).rest()
            self._overall.rest()
            return {}
        wanted = {
            sequence: (shadow, min(length, most))
            for sequence, most in asked.items()
            if (shadow := self._followed(sequence, length)) is not None
        }
        self._guess([*wanted.values()])
        return {
            sequence: guesses
            for sequence, (shadow, _) in wanted.items()
            if (guesses := shadow.guessed())
        }

    def _acceptance(self, sequence: Sequence) -> Acceptance:
        shadow = self._shadows.get(sequence.place)
        return self._overall if shadow is None else shadow.acceptance

    def _followed(self, of: Sequence, ahead: int) -> Shadow | None:
        """The sequence's shadow with all its tokens; None if there is no room for it."""
        shadow = self._shadows.get(of.place)
        if shadow is None:
            shadow = Shadow(of, self._max_len, self._overall.chance)
            sequence = shadow.sequence
            known = sequence.ids
            computed = self._cache.claim(sequence.hold, known, len(known) - 1, spare=0)
            if computed is None:
                return None
            sequence.num_computed = computed
            self._shadows[of.place] = shadow
        else:
            same = shadow.follow(of, self._overall)
            sequence = shadow.sequence
            self._cache.index_full(sequence.hold, sequence.ids, min(same, sequence.num_computed))
        room = min(sequence.num_tokens + ahead, self._max_len)
        return shadow if self._cache.extend(sequence.hold, room) else None

    def _guess(self, wanted: list[tuple[Shadow, int]]) -> None:
        """The first round reads what was said meanwhile, as much as a step may hold."""
        left = self._max_tokens
        parts: list[Part] = []
        for shadow, _ in wanted:
            count = min(shadow.sequence.num_pending, left)
            if count:
                parts.append(Part.of(shadow.sequence, count))
                left -= count
        most = {shadow.sequence: shadow.num_known + length for shadow, length in wanted}
        self._packer.forget()
        while parts:
            drawn = self._run(parts)
            parts = [
                Part(sequence, 1, samples=True)
                for sequence in drawn
                if sequence.num_tokens < min(most[sequence], self._max_len)
                and sequence.last_token not in sequence.stop_ids
            ]

    def _run(self, parts: list[Part]) -> list[Sequence]:
        """One round. Returns the sequences that have one more guess."""
        started = perf_counter()
        tokens = iter(self._runner.run(self._packer.pack(parts)).token_ids.tolist())
        drawn = []
        for part in parts:
            sequence = part.sequence
            sequence.num_computed += part.count
            self._cache.copied(sequence.hold)
            if part.samples and (token := next(tokens)) >= 0:
                sequence.append(token)
                drawn.append(sequence)
        read = sum(part.count for part in parts if part.count > 2)
        self._pace.learn(len(parts), read, perf_counter() - started)
        return drawn

    def forget(self, sequence: Sequence) -> None:
        """It is over, or waits: what is known of it stays in the cache for as long as there is room."""
        shadow = self._shadows.pop(sequence.place, None)
        if shadow is not None:
            self._cache.release(shadow.sequence.hold)

    def clear(self) -> None:
        """Forgets every cached block that no sequence holds."""
        self._cache.clear()

    def check_integrity(self) -> None:
        """Raises EngineError if a block is lost. Between steps only."""
        self._cache.check_integrity(shadow.sequence.hold for shadow in self._shadows.values())
