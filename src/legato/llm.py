"""``LLM``: the same answers as the server's, without a server.

    llm = LLM("smollm2")
    llm.generate("The capital of France is", SamplingParams(temperature=0, max_tokens=16))
    llm.chat([{"role": "user", "content": "Why is the sky blue?"},
              {"role": "assistant", "content": "Because of "}])

The engine runs in this process. Threads may share an ``LLM``, and one may have several streams open and
call the other methods between their pieces: whoever steps, all open answers grow.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from legato import models
from legato.answer import Answer, Piece
from legato.arguments import (
    Params,
    PromptLike,
    conversations_of,
    params_of,
    prompt_of,
    prompts_of,
    unicode_only,
)
from legato.asking import completion_prompt, open_answer, spellings_of
from legato.config import EngineConfig, ServerConfig
from legato.constraint.tokens import TokenTable
from legato.engine import Engine
from legato.errors import RequestError
from legato.progress import NoBar, TokenBar
from legato.request import SamplingParams
from legato.request_output import RequestOutput, request_output
from legato.sampling_params import DEFAULT_MAX_TOKENS, SeedSource, from_fields
from legato.shared_engine import SharedEngine
from legato.steering import NO_STEERING, Steering
from legato.text.continuation import Prompt, build_prompt
from legato.text.messages import Message, check_keys
from legato.text.precedence import ContinueFinalMessage
from legato.text.recall import AnswerMemory
from legato.text.template import load_chat_template
from legato.text.tokenizer import Tokenizer, load_tokenizer
from legato.weights import hub


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
        self._shared = SharedEngine(self._engine)
        self._seeds = SeedSource(config.seed)
        self._numbers = itertools.count()
        self._memory = AnswerMemory()
        self._has_described = False

    @cached_property
    def _tokens(self) -> TokenTable:
        return TokenTable(spellings_of(self.tokenizer, self.info))

    def get_tokenizer(self) -> Tokenizer:
        return self.tokenizer

    def default_sampling_params(self, **fields: Any) -> SamplingParams:
        """What a request gets that says nothing else: the model's preferences."""
        return from_fields(fields, self.info.default_sampling)

    def generate(
        self,
        prompts: PromptLike | Iterable[PromptLike],
        sampling_params: Params = None,
        *,
        use_tqdm: bool = True,
        structured_outputs: dict[str, Any] | None = None,
        token_healing: bool = True,
        prediction: str = "",
        seam: int | None = None,
    ) -> list[RequestOutput]:
        """Continue texts (or token ids) as they are; without ``max_tokens`` by up to 16 tokens.

        ``structured_outputs`` says what they are continued by, ``prediction`` what probably
        (``legato.steering``), ``seam`` where in each of them the answer begins
        (``legato.asking.completion_prompt``).
        """
        with unicode_only("prompts"):
            made = [
                completion_prompt(self.tokenizer, prompt, seam=seam)
                for prompt in prompts_of(prompts)
            ]
        params = map(
            _limited, params_of(sampling_params, len(made), self.default_sampling_params())
        )
        steering = Steering(
            structured_outputs=structured_outputs,
            token_healing=token_healing,
            prediction=prediction,
        )
        return self._run(self._answers(made, params, "prompt", steering), use_tqdm)

    def chat(
        self,
        messages: Iterable[Message] | Iterable[Iterable[Message]],
        sampling_params: Params = None,
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
        made = [self.chat_prompt(one, **options) for one in conversations_of(messages)]
        params = params_of(sampling_params, len(made), self.default_sampling_params())
        steering = Steering(
            structured_outputs=structured_outputs,
            token_healing=token_healing,
            max_thinking_tokens=max_thinking_tokens,
            prediction=prediction,
        )
        return self._run(self._answers(made, params, "messages", steering), use_tqdm)

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
        with unicode_only("messages"):
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
        prompt: Prompt | PromptLike,
        sampling_params: SamplingParams | None = None,
        steering: Steering = NO_STEERING,
    ) -> Generator[Piece, None, None]:
        """The answer as it grows, one piece for each step. Closing the iterator cancels.

        A text and token ids are continued as ``generate`` does it; a chat is streamed with what
        ``chat_prompt`` makes of it.
        """
        [params] = params_of(sampling_params, 1, self.default_sampling_params())
        if not isinstance(prompt, Prompt):
            with unicode_only("prompt"):
                prompt = completion_prompt(self.tokenizer, prompt_of(prompt, "prompt"))
            params = _limited(params)
        for _, pieces in self._shared.grow(self._answers([prompt], [params], "prompt", steering)):
            yield from pieces

    def _answers(
        self,
        prompts: list[Prompt],
        params: Iterable[SamplingParams],
        field: str,
        steering: Steering,
    ) -> list[Answer]:
        with self._shared.turn:
            return [
                self._answer(prompt, wanted, field, steering)
                for prompt, wanted in zip(prompts, params, strict=True)
            ]

    def _answer(
        self, prompt: Prompt, params: SamplingParams, field: str, steering: Steering
    ) -> Answer:
        guidance = steering.guidance(
            prompt,
            self.tokenizer,
            lambda: self._tokens,
            self.info.max_model_len,
        )
        answer = open_answer(
            prompt,
            params,
            self._memory,
            self.info,
            self.tokenizer,
            self._seeds,
            request_id=str(next(self._numbers)),
            field=field,
            guidance=guidance,
        )
        if answer.request.is_constrained and not self._has_described:
            self._engine.describe(self._tokens)
            self._has_described = True
        return answer

    def _run(self, answers: list[Answer], shows_progress: bool) -> list[RequestOutput]:
        bar = TokenBar(len(answers)) if shows_progress else NoBar()
        with bar:
            for answer, pieces in self._shared.grow(answers):
                bar.advance(sum(len(piece.token_ids) for piece in pieces), answer.finished)
        return [request_output(answer, self.tokenizer) for answer in answers]


def _limited(params: SamplingParams) -> SamplingParams:
    """A text goes on for ever, if nobody says how far."""
    if params.max_tokens is not None:
        return params
    return msgspec.structs.replace(params, max_tokens=DEFAULT_MAX_TOKENS)
