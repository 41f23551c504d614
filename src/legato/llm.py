"""``LLM``: the same answers as the server's, without a server.

    llm = LLM("smollm2")
    llm.generate("The capital of France is", SamplingParams(temperature=0, max_tokens=16))
    llm.chat([{"role": "user", "content": "Why is the sky blue?"},
              {"role": "assistant", "content": "Because of "}])

The engine runs in this process. An ``LLM`` is for one thread, which may have several streams open and
call the other methods between their pieces: whoever steps, all open answers grow.
"""

from __future__ import annotations

import itertools
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any, cast

from legato import models
from legato.answer import Answer, Choice, Piece
from legato.asking import completion_prompt, keeps_tokens, make_request, spellings_of
from legato.config import EngineConfig, ServerConfig
from legato.constraint.tokens import TokenTable
from legato.engine import Engine
from legato.errors import RequestError
from legato.progress import NoBar, TokenBar
from legato.request import Output, SamplingParams, TokenLogprobs
from legato.sampling_params import SeedSource, from_fields
from legato.steering import NO_STEERING, Steering
from legato.text.continuation import Prompt, build_prompt
from legato.text.messages import check_keys
from legato.text.parting import parting_of
from legato.text.precedence import ContinueFinalMessage
from legato.text.recall import AnswerMemory
from legato.text.resuming import resume
from legato.text.template import load_chat_template
from legato.text.tokenizer import load_tokenizer
from legato.weights import hub

Message = dict[str, Any]
PromptLike = str | list[int]
Params = SamplingParams | Sequence[SamplingParams] | None


@dataclass(frozen=True)
class Logprob:
    logprob: float
    rank: int  # 1: the most likely token
    decoded_token: str


TokenChoices = dict[int, Logprob]
"""Token id -> its log-probability, the chosen token first."""


@dataclass(frozen=True)
class CompletionOutput:
    """One of the n answers."""

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenChoices] | None
    finish_reason: str | None
    stop_reason: int | str | None
    reasoning: str = ""  # the thoughts in ``text``, of a chat
    content: str = ""  # ``text`` without them


@dataclass(frozen=True)
class RequestOutput:
    """A prompt and its answers. In a chat, ``prompt`` is what the template made of the messages."""

    request_id: str
    prompt: str
    prompt_token_ids: list[int]
    prompt_logprobs: list[TokenChoices | None] | None
    outputs: list[CompletionOutput]
    num_cached_tokens: int


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-c waits for the end of the block: a step that is left half-way would spoil the cache."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals go to the main thread
        return
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
    if asked:
        raise KeyboardInterrupt


class LLM:
    """A model, loaded. ``settings`` are the fields of ``EngineConfig``; ``reasoning_parser`` is the
    server's setting.

    Raises ConfigError for a setting, ModelError for a model that cannot be used.
    """

    def __init__(
        self,
        model: str = "smollm2",
        *,
        chat_template: str | None = None,
        reasoning_parser: str = "auto",
        **settings: Any,
    ) -> None:
        config = EngineConfig(model=model, **settings)
        self._reasoning_parser = ServerConfig(reasoning_parser=reasoning_parser).reasoning_parser
        path = hub.resolve(model).path
        self.tokenizer = load_tokenizer(path).remembering("")
        self.template = load_chat_template(path, Path(chat_template) if chat_template else None)
        loaded = models.load(config)
        self.info = loaded.info
        self._engine = Engine(loaded.program, loaded.info, config, draft=loaded.draft)
        self._seeds = SeedSource(config.seed)
        self._numbers = itertools.count()
        self._memory = AnswerMemory()
        self._has_described = False
        self._arrived: dict[str, deque[Output]] = {}  # by request id: not yet taken by its caller

    @cached_property
    def _tokens(self) -> TokenTable:
        return TokenTable(spellings_of(self.tokenizer, self.info))

    def default_sampling_params(self, **fields: Any) -> SamplingParams:
        """What a request gets that says nothing else: the model's preferences."""
        return from_fields(fields, self.info.default_sampling)

    def generate(
        self,
        prompts: PromptLike | Sequence[PromptLike],
        params: Params = None,
        *,
        use_tqdm: bool = True,
        structured_outputs: dict[str, Any] | None = None,
        token_healing: bool = True,
        prediction: str = "",
        seam: int | None = None,
    ) -> list[RequestOutput]:
        """Continue texts (or token ids) as they are; without ``params`` by up to 16 tokens.

        ``structured_outputs`` says what they are continued by, ``prediction`` what probably
        (``legato.steering``), ``seam`` where in each of them the answer begins
        (``legato.asking.completion_prompt``).
        """
        one = isinstance(prompts, str) or (prompts and isinstance(prompts[0], int))
        several = cast("list[PromptLike]", [prompts] if one else prompts)
        default = self.default_sampling_params(max_tokens=16)
        made = [completion_prompt(self.tokenizer, prompt, seam=seam) for prompt in several]
        steering = Steering(
            structured_outputs=structured_outputs,
            token_healing=token_healing,
            prediction=prediction,
        )
        return self._run(self._answers(made, params or default, "prompt", steering), use_tqdm)

    def chat(
        self,
        messages: list[Message] | list[list[Message]],
        params: Params = None,
        *,
        use_tqdm: bool = True,
        structured_outputs: dict[str, Any] | None = None,
        token_healing: bool = True,
        max_thinking_tokens: int | None = None,
        prediction: str = "",
        **options: Any,
    ) -> list[RequestOutput]:
        """Answer conversations; one that ends with the assistant's message is continued there.

        ``options`` are those of ``chat_prompt``.
        """
        one = bool(messages) and isinstance(messages[0], dict)
        several = cast("list[list[Message]]", [messages] if one else messages)
        default = self.default_sampling_params()
        made = [self.chat_prompt(conversation, **options) for conversation in several]
        steering = Steering(
            structured_outputs=structured_outputs,
            token_healing=token_healing,
            max_thinking_tokens=max_thinking_tokens,
            prediction=prediction,
        )
        return self._run(self._answers(made, params or default, "messages", steering), use_tqdm)

    def chat_prompt(
        self,
        messages: list[Message],
        *,
        continue_final_message: ContinueFinalMessage | None = None,
        add_generation_prompt: bool | None = None,
        documents: list[dict[str, Any]] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        parse_special_tokens: bool = False,
    ) -> Prompt:
        """What the model sees of a conversation."""
        if self.template is None:
            raise RequestError("this model has no chat template: use generate()", "messages")
        check_keys(messages, self.template.sources.values())
        return build_prompt(
            self.template,
            self.tokenizer,
            messages,
            continue_final_message=continue_final_message,
            add_generation_prompt=add_generation_prompt,
            documents=documents,
            template_kwargs=chat_template_kwargs,
            parse_special_tokens=parse_special_tokens,
            reasoning_parser=self._reasoning_parser,
        )

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        steering: Steering = NO_STEERING,
    ) -> Generator[Piece, None, None]:
        """The answer as it grows, one piece for each step. Closing the iterator cancels."""
        params = params or self.default_sampling_params()
        for _, pieces in self._grow(self._answers([prompt], params, "prompt", steering)):
            yield from pieces

    def _answers(
        self,
        prompts: list[Prompt],
        params: SamplingParams | Sequence[SamplingParams],
        field: str,
        steering: Steering,
    ) -> list[Answer]:
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        if len(each) != len(prompts):
            raise RequestError(f"{len(prompts)} prompts, but {len(each)} params", "params")
        return [
            self._answer(prompt, wanted, field, steering)
            for prompt, wanted in zip(prompts, each, strict=True)
        ]

    def _answer(
        self, prompt: Prompt, params: SamplingParams, field: str, steering: Steering
    ) -> Answer:
        guidance = steering.guidance(
            prompt,
            self._reasoning_parser,
            self.tokenizer,
            lambda: self._tokens,
            self.info.max_model_len,
        )
        stays = keeps_tokens(params)
        memory = None if stays else self._memory
        healing = guidance.token_healing and not stays
        resumption = resume(
            prompt,
            self.tokenizer,
            memory,
            "",
            healing=healing,
            within_answer=bool(guidance.grammar),
        )
        request = make_request(
            prompt,
            resumption,
            params,
            self.info,
            self.tokenizer,
            self._seeds,
            request_id=str(next(self._numbers)),
            field=field,
            guidance=guidance,
        )
        if request.is_constrained and not self._has_described:
            self._engine.describe(self._tokens)
            self._has_described = True
        remembered = [self._memory.begin("", prompt, resumption) for _ in range(params.n)]
        parting = parting_of(prompt, self._reasoning_parser, self.tokenizer)
        return Answer(prompt, request, self.tokenizer, remembered, parting)

    def _run(self, answers: list[Answer], shows_progress: bool) -> list[RequestOutput]:
        bar = TokenBar(len(answers)) if shows_progress else NoBar()
        with bar:
            for answer, pieces in self._grow(answers):
                bar.advance(sum(len(piece.token_ids) for piece in pieces), answer.finished)
        return [self._output(answer) for answer in answers]

    def _grow(self, answers: list[Answer]) -> Iterator[tuple[Answer, list[Piece]]]:
        """Steps the engine until all answers are finished; whatever interrupts, cancels."""
        unfinished = {answer.request.id: answer for answer in answers}
        arrived: deque[Output] = deque()
        try:
            self._arrived.update(dict.fromkeys(unfinished, arrived))
            for answer in answers:
                self._engine.add(answer.request)
            while unfinished:
                if not arrived:
                    self._step()
                    continue
                output = arrived.popleft()
                if output.request_id not in unfinished:
                    continue  # others stepped before its stop string was seen
                answer = unfinished[output.request_id]
                pieces = answer.push([output])
                for index in answer.take_stopped():
                    self._engine.cancel(answer.request.id, index)
                if answer.finished:
                    del unfinished[answer.request.id], self._arrived[answer.request.id]
                yield answer, pieces
        finally:
            for request_id in unfinished:
                self._engine.cancel(request_id)
                self._arrived.pop(request_id, None)

    def _step(self) -> None:
        """One step of the engine, for everybody: what came waits for whoever asked."""
        with uninterrupted():
            for output in self._engine.step():
                if output.request_id in self._arrived:
                    self._arrived[output.request_id].append(output)

    def _output(self, answer: Answer) -> RequestOutput:
        entries = answer.prompt_logprobs
        return RequestOutput(
            request_id=answer.request.id,
            prompt=answer.prompt.text,
            prompt_token_ids=answer.prompt_token_ids,
            prompt_logprobs=None
            if entries is None
            else [None if entry is None else self._by_id(entry) for entry in entries],
            outputs=[self._completion(answer, choice) for choice in answer.choices],
            num_cached_tokens=answer.cached_tokens,
        )

    def _completion(self, answer: Answer, choice: Choice) -> CompletionOutput:
        wanted = answer.request.params.logprobs is not None
        return CompletionOutput(
            index=choice.index,
            text=choice.text,
            token_ids=choice.token_ids,
            logprobs=[self._by_id(entry) for entry in choice.logprobs] if wanted else None,
            finish_reason=choice.finish_reason,
            stop_reason=choice.stop_reason,
            reasoning=choice.reasoning,
            content=choice.content,
        )

    def _by_id(self, entry: TokenLogprobs) -> TokenChoices:
        ranks = [entry.rank, *range(1, len(entry.token_ids))]
        found: TokenChoices = {}
        for token, logprob, rank in zip(entry.token_ids, entry.logprobs, ranks, strict=True):
            found.setdefault(token, Logprob(logprob, rank, self.tokenizer.token_text(token)))
        return found
