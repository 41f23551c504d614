"""Sequence: one stream of tokens with its place in the KV cache.

State is counters; everything else is a property of them. A request of n choices is n sequences.
"""

from __future__ import annotations

from functools import cached_property

import msgspec
import numpy as np

from legato.batch import F32, I32, U32
from legato.cache.kv import Hold
from legato.cache.prefix import common_beginning
from legato.constraint.constraint import Constraint
from legato.drafting.gain import Gain
from legato.drafting.guesses import Guesses
from legato.drafting.known import shared
from legato.errors import EngineError
from legato.request import FinishReason, Progress, Request, SamplingParams, TokenLogprobs
from legato.speculation import Speculation

NO_IDS: I32 = np.empty(0, np.int32)
NO_VALUES: F32 = np.empty(0, np.float32)
SEEDS = 2**64


class Sequence:
    """Choice ``index`` of ``request``; ``arrival`` orders sequences of equal priority.

    ``max_len``: most tokens of prompt and output together.
    """

    def __init__(
        self,
        request: Request,
        index: int,
        arrival: int,
        max_len: int,
        salt: str,
        constraint: Constraint | None = None,
        speculation: Speculation | None = None,
    ) -> None:
        # Its tokens are in the arrays below, and need no second place while it waits.
        self.request = msgspec.structs.replace(request, prompt_token_ids=[], output_token_ids=[])
        self.index = index
        self.key = (request.priority, arrival, index)  # served in this order
        self.hold = Hold(salt)

        given = request.prompt_token_ids + request.output_token_ids
        self.num_prompt = len(request.prompt_token_ids)
        self.num_given = len(given)  # prompt, and output that came with the request
        self.num_tokens = len(given)  # known: prompt and output
        self.num_computed = 0  # tokens whose keys and values are in the cache
        self.num_cached: int | None = None  # given tokens found in the cache at first admission
        self._ids: I32 = np.array(given + [0], np.int32)
        self.last_token = given[-1]
        self.prompt_logprobs: list[TokenLogprobs] = []  # of given tokens 1, 2, ...
        self.constraint = constraint
        self._speculation = speculation
        self._mask: U32 | None = None
        self._guesses: Guesses | None = None
        self.is_guessing = False  # the last draft was guessed, not known
        self.scheduled_at: float | None = None  # time.monotonic() of its first step
        self.is_announced = False  # its first output is out
        self.is_long = False  # what is to be computed before the next token enters in chunks

        params = request.params
        self.params: SamplingParams = params
        self.seed = ((params.seed or 0) + index) % SEEDS
        self.stop_ids = set(params.stop_token_ids)
        if not params.ignore_eos:
            self.stop_ids.update(request.eos_token_ids)
        self.is_penalised = (
            params.repetition_penalty != 1.0
            or params.presence_penalty != 0.0
            or params.frequency_penalty != 0.0
        )
        self.is_biased = bool(params.logit_bias) or params.min_tokens > 0
        self.wants_prompt_logprobs = params.prompt_logprobs is not None and index == 0
        most_output = max_len if params.max_tokens is None else params.max_tokens
        self._max_len = max_len
        self.max_tokens = min(max_len, self.num_prompt + most_output)  # prompt included

    # -- tokens ---------------------------------------------------------------------------------
    @property
    def ids(self) -> I32:
        """All known tokens [num_tokens]."""
        return self._ids[: self.num_tokens]

    @property
    def output_ids(self) -> I32:
        return self._ids[self.num_prompt : self.num_tokens]

    @property
    def num_output(self) -> int:
        return self.num_tokens - self.num_prompt

    def common_length(self, other: Sequence) -> int:
        """How many leading tokens are equal."""
        return common_beginning(self.ids, other.ids)

    def append(self, token: int) -> None:
        if self.num_tokens == len(self._ids):
            self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
        self._ids[self.num_tokens] = token
        self.num_tokens += 1
        self.last_token = token

    def follow(self, other: Sequence) -> int:
        """Takes over the other's tokens; what was computed of the same ones stands, but for the last.
        Returns how many leading tokens are the same."""
        same = self.common_length(other)
        while len(self._ids) < other.num_tokens:
            self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
        self._ids[same : other.num_tokens] = other._ids[same : other.num_tokens]
        self.num_tokens, self.last_token = other.num_tokens, other.last_token
        self.num_computed = min(self.num_computed, same, self.num_tokens - 1)
        return same

    @property
    def priority(self) -> int:
        return self.key[0]

    @property
    def place(self) -> tuple[int, int]:
        """No other has it, and it does not change."""
        return self.key[1:]

    def rank(self, priority: int) -> None:
        """It has this priority from now on."""
        self.key = (priority, *self.place)

    # -- progress ---------------------------------------------------------------------------------
    @property
    def num_pending(self) -> int:
        """Tokens to compute before the next one can be sampled; 1 while decoding."""
        return self.num_tokens - self.num_computed

    @property
    def num_reusable(self) -> int:
        """Leading tokens that may come from the cache: the last one must be computed, for its
        logits; so must those whose prompt log-probabilities are still to come."""
        if self.wants_prompt_logprobs and not self.is_prompt_scored:
            return len(self.prompt_logprobs)
        return self.num_tokens - 1

    @property
    def is_given_computed(self) -> bool:
        return self.num_computed >= self.num_given

    @property
    def is_prompt_scored(self) -> bool:
        """All prompt log-probabilities are known."""
        return len(self.prompt_logprobs) == self.num_given - 1

    @property
    def most_guesses(self) -> int:
        """How many tokens, whatever they are, may be guessed behind the known ones."""
        most = self.max_tokens - self.num_tokens - 1
        return most if self.constraint is None else min(most, self.constraint.most_guesses)

    def draft(self, most: int, gain: Gain | None, *, guesses: bool = True) -> list[int]:
        """Up to ``most`` tokens that are likely to follow the known ones: what a constraint knows
        (or, with ``guesses``, what a grammar thinks), or else what pays of what came before."""
        most = min(most, self.max_tokens - self.num_tokens - 1)
        if self.constraint is not None:
            known = self.constraint.draft(most, guesses=guesses)
            if known:
                self.is_guessing = False
                return known
            most = min(most, self.constraint.most_guesses)
        if gain is None or most <= 0 or self._speculation is None:
            return []
        if self._guesses is not None and not self._guesses.is_due():
            return []
        draft = self._followed(self._speculation).draft(most, gain)
        self.is_guessing = True
        for count, token in enumerate(draft, 1):
            if token in self.stop_ids:
                return draft[:count]
        return draft

    def _followed(self, settings: Speculation) -> Guesses:
        """Guesses that know all tokens."""
        if self._guesses is None:
            known = shared(
                self.hold.salt,
                settings.prompt_lookup_min,
                self.request.prediction_token_ids,
                self._ids[: self.num_given],
            )
            has_begun = self.num_given > self.num_prompt
            self._guesses = Guesses(settings, known, has_begun=has_begun)
        new = self.num_tokens - self._guesses.num_known
        if new == 1:
            self._guesses.follow((self.last_token,))
        elif new:
            self._guesses.follow(self._ids[self.num_tokens - new : self.num_tokens].tolist())
        return self._guesses

    def accept(self, token: int) -> FinishReason | None:
        """Appends a token that was chosen; returns whether the sequence ends with it."""
        self.append(token)
        if self.constraint is not None:
            constraint = self.constraint
            if token in self.stop_ids and not constraint.heals_after(0):
                return FinishReason.STOP
            if constraint.accept(token):  # it spells what was given: it is not counted
                self.max_tokens = min(self._max_len, self.max_tokens + 1)
                return FinishReason.LENGTH if self.is_exhausted else None
            if constraint.is_finished:
                return FinishReason.STOP
            if constraint.grammar is None and constraint.is_over:
                self.constraint = None
        return self._next_end(token)

    def catch_up(self, progress: Progress) -> None:
        """Takes over what another engine's sequence came to; its tokens count as known, not as given."""
        for token in progress.token_ids:
            if self.accept(token) is not None:
                raise EngineError("the tokens of an interrupted answer go on behind its end")
        if progress.is_announced:
            self.is_announced = True
            self.wants_prompt_logprobs = False

    def is_stop(self, token: int) -> bool:
        """Whether the token only ends the sequence, and is no part of its text."""
        return token in self.stop_ids or token in self.request.eos_token_ids

    def _next_end(self, token: int) -> FinishReason | None:
        if token in self.stop_ids:
            return FinishReason.STOP
        if self.is_exhausted:
            return FinishReason.LENGTH
        return None

    @property
    def is_exhausted(self) -> bool:
        """No further token may be sampled."""
        return self.num_tokens >= self.max_tokens

    # -- what changes the logits -----------------------------------------------------------------
    @cached_property
    def penalised_prompt(self) -> I32:
        """Distinct prompt tokens, if they are penalised."""
        if self.params.repetition_penalty == 1.0:
            return NO_IDS
        return np.unique(self._ids[: self.num_prompt])

    @cached_property
    def _bias(self) -> tuple[I32, F32]:
        bias = self.params.logit_bias or {}
        return np.array(list(bias), np.int32), np.array(list(bias.values()), np.float32)

    @cached_property
    def _early_bias(self) -> tuple[I32, F32]:
        """The bias until ``min_tokens`` are reached: nothing that ends the sequence is allowed."""
        bias = dict(self.params.logit_bias or {})
        bias.update(dict.fromkeys(self.stop_ids, -np.inf))
        return np.array(list(bias), np.int32), np.array(list(bias.values()), np.float32)

    def bias_after(self, drafted: int) -> tuple[I32, F32]:
        """(token ids, what is added to their logits) for the token behind so many drafted ones."""
        is_early = self.num_output + drafted < self.params.min_tokens
        is_told = self.constraint is not None and (
            self.constraint.is_finished or self.constraint.heals_after(drafted)
        )
        return self._early_bias if is_early and not is_told else self._bias

    @property
    def is_masked(self) -> bool:
        return self.params.allowed_token_ids is not None

    def mask(self, vocab_size: int) -> U32:
        """Bits of the allowed tokens [ceil(vocab / 32)]; only if ``is_masked``."""
        if self._mask is None:
            bits = np.zeros(-(-vocab_size // 32) * 32, np.uint8)
            bits[self.params.allowed_token_ids or []] = 1
            self._mask = np.packbits(bits, bitorder="little").view(np.dtype("<u4"))
        return self._mask
