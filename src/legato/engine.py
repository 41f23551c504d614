"""Engine: requests in, tokens out, one step at a time. Token ids only: no tokenizer, no HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import repeat
from typing import TYPE_CHECKING

from legato.batch import BLOCK_SIZE, StepResult
from legato.cache.kv import KVCache
from legato.config import EngineConfig
from legato.constraint.arriving import Arriving, ends, open_choices
from legato.constraint.constraint import Constraint
from legato.constraint.tokens import TokenTable
from legato.counts import count_draft, count_step
from legato.draft_model import DraftModel, Loaded
from legato.drafting.pace import Pace
from legato.errors import ContextLengthError, EngineError, LegatoError, RequestError
from legato.faults import fault_of
from legato.messages import Stats
from legato.models.info import ModelInfo
from legato.packing import Packer
from legato.plan import Part
from legato.request import FinishReason, Output, Request
from legato.runner import Program, Runner, token_logprobs
from legato.scheduler import Scheduler
from legato.sequence import Sequence

if TYPE_CHECKING:
    from legato.constraint.grammar import Grammar


class Engine:
    """Serves requests on a program (``models.load`` makes it), many at a time.

    ``max_model_len``: most tokens of a sequence, as the model and the KV pool allow.
    """

    def __init__(
        self,
        program: Program,
        info: ModelInfo,
        config: EngineConfig,
        pace: Pace | None = None,
        draft: Loaded | None = None,
    ) -> None:
        """``pace``: what steps are expected to take, if that is not to be learned. ``draft``: a model
        that guesses ahead."""
        self.info = info
        self.max_model_len = min(info.max_model_len, info.num_blocks * BLOCK_SIZE)
        self._shares_prefixes = config.enable_prefix_caching
        self._cache = KVCache(info.num_blocks, config.max_num_seqs, self.max_model_len)
        self._speculation = config.speculation
        self._drafter = None if draft is None else DraftModel.of(draft, info, config)
        self._scheduler = Scheduler(
            self._cache,
            pace or Pace(config.step_time_target),
            max_tokens=config.max_num_batched_tokens,
            max_rows=config.max_logit_rows,
            max_sequences=config.max_num_seqs,
            most_at_once=config.most_at_once,
            drafter=self._drafter,
        )
        self._packer = Packer(self._cache, info.vocab_size, config.max_logit_rows)
        self._runner = Runner(program)
        self._open: dict[str, list[Sequence]] = {}  # choices that are not finished
        self._tokens: TokenTable | None = None
        self._arriving = Arriving()
        self._arrivals = 0
        self._stats = Stats(blocks_total=info.num_blocks)

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work or self._arriving.has_work

    @property
    def kv_cache(self) -> KVCache:
        """For whoever keeps it. Between steps only."""
        return self._cache

    def describe(self, tokens: TokenTable) -> None:
        """What the vocabulary's tokens spell; needed before requests that constrain their tokens."""
        self._tokens = tokens
        self._arriving.describe(tokens)

    def add(self, request: Request) -> None:
        """Queues a request. Raises RequestError or ContextLengthError if it cannot be served."""
        self._validate(request)
        if request.grammar:
            self._arriving.add(request)
        else:
            self._begin(request, repeat(None))

    def _begin(self, request: Request, grammars: Iterable[Grammar | None]) -> None:
        """``grammars``: of its choices, fed with what was given."""
        self._arrivals += 1
        # Without prefix caching a request shares blocks with itself only (choices, preemption).
        salt = request.cache_salt if self._shares_prefixes else f"\0{self._arrivals}"
        progress = open_choices(request)
        choices = [
            Sequence(
                request,
                one.index,
                self._arrivals,
                self.max_model_len,
                salt,
                self._constraint(request, grammar),
                self._speculation,
            )
            for one, grammar in zip(progress, grammars, strict=False)
        ]
        for sequence, one in zip(choices, progress, strict=True):
            sequence.catch_up(one)
        self._open[request.id] = choices
        self._stats.prompt_tokens += choices[0].num_given
        self._scheduler.add(list(choices))

    def step(self) -> list[Output]:
        """Computes the next tokens of everything that can go on; empty without work."""
        started = time.perf_counter()
        outputs = self._arrive()
        parts = self._scheduler.schedule()
        if not parts:
            if self._scheduler.has_work:
                raise EngineError("nothing could be scheduled although requests are waiting")
            return outputs
        tokens = self._go_on(parts)
        if tokens is not None:
            outputs += map(self._extend_plainly, parts, tokens)
        else:
            self._run(parts, outputs)
        seconds = time.perf_counter() - started
        self._scheduler.ran(seconds)
        count_step(self._stats, parts, seconds)
        return outputs

    def cancel(self, request_id: str, index: int | None = None) -> list[Output]:
        """Ends a request, or one of its choices, at once; what was open ends with ABORT.

        Unknown and finished requests are ignored: the client cannot know how far the engine is.
        """
        cancelled = [s for s in self._open.get(request_id, ()) if index in (None, s.index)]
        early = self._arriving.cancel(request_id, index)
        return early + [self._end(sequence, FinishReason.ABORT) for sequence in cancelled]

    def rank(self, request_id: str, priority: int) -> None:
        """The request, if it is open, has this priority from now on."""
        self._arriving.rank(request_id, priority)
        self._scheduler.rank(self._open.get(request_id, []), priority)

    def stats(self) -> Stats:
        """The counters, as they are now, in the engine's own struct: read it, do not keep it."""
        stats, pool = self._stats, self._cache.pool
        stats.running = len(self._scheduler.running)
        stats.waiting = self._scheduler.num_waiting
        stats.blocks_free = pool.num_free
        stats.blocks_cached = pool.num_cached
        stats.blocks_used = pool.num_used
        stats.preemptions = self._scheduler.num_preemptions
        return stats

    def clear_cache(self) -> None:
        """Forgets every cached block that no sequence holds."""
        self._cache.clear()
        if self._drafter is not None:
            self._drafter.clear()

    def check_integrity(self) -> None:
        """Every block is free, cached or referenced, and every sequence is where it should be.

        Raises EngineError otherwise. Between steps only.
        """
        sequences = self._scheduler.sequences
        open_sequences = [sequence for choices in self._open.values() for sequence in choices]
        if len(sequences) != len(set(sequences)) or set(sequences) != set(open_sequences):
            raise EngineError("a sequence is lost, or scheduled twice")
        for sequence in sequences:
            if sequence.hold.is_empty != (sequence not in self._scheduler.running):
                raise EngineError("a waiting sequence holds blocks, or a running one does not")
            if not 0 <= sequence.num_computed < sequence.num_tokens:
                raise EngineError("a sequence has nothing left to compute")
        self._cache.check_integrity(sequence.hold for sequence in sequences)
        if self._drafter is not None:
            self._drafter.check_integrity()

    def _validate(self, request: Request) -> None:
        prompt, known = request.prompt_token_ids, request.output_token_ids
        if request.id in self._open or request.id in self._arriving:
            raise RequestError(f"request id {request.id!r} is in use", "request_id")
        if not prompt:
            raise RequestError("the prompt is empty", "prompt")
        if self._tokens is None and request.is_constrained:
            raise EngineError("the engine was not told what its tokens spell")
        predicted = request.prediction_token_ids
        given = {"prompt": prompt, "output_token_ids": known, "prediction": predicted}
        for name, ids in given.items():
            if ids and not 0 <= min(ids) <= max(ids) < self.info.vocab_size:
                raise RequestError(f"a token id is not in 0..{self.info.vocab_size - 1}", name)
        if len(prompt) + len(known) >= self.max_model_len + bool(known):
            raise ContextLengthError(
                f"the prompt has {len(prompt) + len(known)} tokens, which leaves no room for an "
                f"answer: the context length is {self.max_model_len}",
                "prompt",
            )

    def _go_on(self, parts: list[Part]) -> list[int] | None:
        """The parts' next tokens, if the last step's batch goes on; None: it is a step like any other."""
        batch = self._packer.follow(parts)
        if batch is None:
            return None
        try:
            tokens = [part.sequence.last_token for part in parts]
            return self._runner.go_on(batch, tokens, self._packer.ruled)
        except MemoryError:
            raise
        except Exception:  # run part by part, it shows whose fault it is
            self._packer.forget()
            return None

    def _run(self, parts: list[Part], outputs: list[Output]) -> None:
        """Runs the parts, and takes over what that brings."""
        for computed, result in self._outcomes(parts):
            if isinstance(result, StepResult):
                self._absorb(computed, result, outputs)
            else:
                outputs += [self._fail(part.sequence, result) for part in computed]

    def _outcomes(self, parts: list[Part]) -> list[tuple[list[Part], StepResult | Exception]]:
        """Runs the parts together. If that fails, one by one, to find whose fault it is: a row's
        numbers do not depend on its neighbours, so the others lose nothing."""
        outcome = self._try(parts)
        if isinstance(outcome, StepResult) or len(parts) == 1:
            return [(parts, outcome)]
        outcomes = [([part], self._try([part])) for part in parts]
        if not any(isinstance(alone, StepResult) for _, alone in outcomes):
            raise EngineError(f"the step failed: {outcome}") from outcome
        return outcomes

    def _try(self, parts: list[Part]) -> StepResult | Exception:
        try:
            return self._runner.run(self._packer.pack(parts), self._packer.ruled)
        except MemoryError:  # nobody's fault: another process may have more of it
            raise
        except Exception as error:  # whatever it is, it is somebody's fault
            return error

    def _absorb(self, parts: list[Part], result: StepResult, outputs: list[Output]) -> None:
        """Takes over what a step brought, part by part; ``row`` walks through its logit rows."""
        tokens = result.token_ids.tolist()
        row = 0
        for part in parts:
            if part.is_plain:
                outputs.append(self._extend_plainly(part, tokens[row]))
                row += 1
            else:
                row = self._absorb_part(part, tokens, result, row, outputs)

    def _absorb_part(
        self,
        part: Part,
        tokens: list[int],
        result: StepResult,
        row: int,
        outputs: list[Output],
    ) -> int:
        """Returns the row behind the part's."""
        sequence = part.sequence
        end = row + part.num_rows
        if (error := fault_of(part, tokens[row:end], self._runner.failed_grammars)) is not None:
            # What led to them must not reach the cache: the part does not count as computed.
            outputs.append(self._fail(sequence, error))
            return end
        if part.num_forced:
            wanted = sequence.params.prompt_logprobs or 0
            sequence.prompt_logprobs += [
                token_logprobs(result, row + i, wanted) for i in range(part.num_forced)
            ]
            row += part.num_forced
        self._scheduler.computed(part)
        if part.samples:
            try:
                outputs.append(self._extend(part, tokens, result, row))
            except LegatoError as refusal:  # a constraint cannot go on
                outputs.append(self._fail(sequence, refusal))
        return end

    def _extend_plainly(self, part: Part, token: int) -> Output:
        """``_extend`` without what most steps do not have."""
        sequence, failed = part.sequence, self._runner.failed_grammars
        if (token < 0 or failed) and (error := fault_of(part, [token], failed)) is not None:
            return self._fail(sequence, error)
        self._scheduler.computed(part)
        try:
            reason = sequence.accept(token)
        except LegatoError as refusal:  # the grammar cannot go on
            return self._fail(sequence, refusal)
        output = Output(
            request_id=sequence.request.id,
            index=sequence.index,
            token_ids=[token],
            finish_reason=reason,
        )
        self._stats.generation_tokens += 1
        if output.finish_reason is not None:
            self._finish(sequence, output)
        return output

    def _extend(self, part: Part, tokens: list[int], result: StepResult, row: int) -> Output:
        """The sequence has new tokens, and may have ended with the last of them."""
        sequence = part.sequence
        if sequence.is_exhausted:  # no output was wanted, only the prompt's log-probabilities
            return self._end(sequence, FinishReason.LENGTH)
        output = self._output(sequence)
        output.token_ids = []
        if sequence.params.logprobs is not None:
            output.logprobs = []
        for ahead, token in enumerate(tokens[row : row + len(part.draft) + 1]):
            output.token_ids.append(token)
            if output.logprobs is not None:
                wanted = sequence.params.logprobs or 0
                output.logprobs.append(token_logprobs(result, row + ahead, wanted))
            output.finish_reason = sequence.accept(token)
            is_drafted = ahead < len(part.draft) and part.draft[ahead] == token
            if output.finish_reason is not None or not is_drafted:
                break
            sequence.num_computed += 1
        self._stats.generation_tokens += len(output.token_ids)
        if part.draft:
            count_draft(self._stats, sequence, len(part.draft), len(output.token_ids) - 1)
        if output.finish_reason is not None:
            self._finish(sequence, output)
        return output

    def _finish(self, sequence: Sequence, output: Output) -> None:
        """``output`` is its last."""
        self._close(sequence)
        if output.finish_reason is FinishReason.STOP and sequence.is_stop(sequence.last_token):
            output.stop_token_id = sequence.last_token

    def _end(self, sequence: Sequence, reason: FinishReason) -> Output:
        """Ends a sequence without a new token."""
        self._close(sequence)
        output = self._output(sequence)
        output.finish_reason = reason
        return output

    def _fail(self, sequence: Sequence, error: Exception) -> Output:
        output = self._end(sequence, FinishReason.ERROR)
        output.error = f"{type(error).__name__}: {error}"
        if isinstance(error, RequestError):
            output.error = str(error)
            output.error_field = error.field or sequence.request.grammar_field
        return output

    def _arrive(self) -> list[Output]:
        """Begins the requests whose grammar is compiled; if there is nothing else to do, waits a
        moment for one. Returns what became of those whose grammar is bad."""
        if not self._arriving.has_work:
            return []
        outputs: list[Output] = []
        for request, grammars in self._arriving.take(waits=not self._scheduler.has_work):
            try:
                if isinstance(grammars, LegatoError):
                    raise grammars
                self._begin(request, grammars)
            except LegatoError as error:
                outputs += ends(request, FinishReason.ERROR, f"{type(error).__name__}: {error}")
        return outputs

    def _constraint(self, request: Request, grammar: Grammar | None) -> Constraint | None:
        if self._tokens is None or not request.is_constrained:
            return None
        return Constraint(self._tokens, request, grammar)

    def _close(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        choices = self._open[sequence.request.id]
        choices.remove(sequence)
        if not choices:
            del self._open[sequence.request.id]

    def _output(self, sequence: Sequence) -> Output:
        """An output to fill; a sequence's first tells what only the first tells."""
        output = Output(request_id=sequence.request.id, index=sequence.index)
        if not sequence.is_announced and sequence.num_cached is not None:
            sequence.is_announced = True
            output.cached_tokens = sequence.num_cached
            output.scheduled_at = sequence.scheduled_at
            if sequence.wants_prompt_logprobs and sequence.is_prompt_scored:
                output.prompt_logprobs = [None, *sequence.prompt_logprobs]
            if sequence.index == 0:
                self._stats.cached_tokens += sequence.num_cached
        return output
