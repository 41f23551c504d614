"""What a chat request holds, and the prompt that is made of it.

Needs neither HTTP nor a model, so that ``legato render`` answers at once.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from legato.errors import ModelError, RequestError
from legato.request import SamplingParams
from legato.sampling_params import from_fields
from legato.server.protocol import GenerationFields
from legato.server.thinking_field import ThinkingField
from legato.text.continuation import Prompt, build_prompt
from legato.text.messages import check_keys
from legato.text.precedence import ContinueFinalMessage
from legato.text.template import ChatTemplate
from legato.text.thinking import template_kwargs
from legato.text.vocabulary import Tokenizer

MAX_MESSAGES = 50_000


class PredictedPart(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A text, as a part of a message may be one."""

    type: Literal["text"]
    text: str


class Prediction(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's Predicted Outputs: text of which much will be in the answer, such as a file to edit."""

    type: Literal["content"]
    content: str | list[PredictedPart]

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ChatRequest(ThinkingField, GenerationFields, kw_only=True, forbid_unknown_fields=True):
    """Whether the last message is continued is decided by ``legato.text.precedence``."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: ContinueFinalMessage | None = None
    parse_special_tokens: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    thinking: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    prediction: Prediction | None = None
    random_seed: int | None = None

    @property
    def wanted_prediction(self) -> str:
        return "" if self.prediction is None else self.prediction.text

    @property
    def names(self) -> dict[str, str]:
        """What the client called the parameters that have another name in a chat."""
        renamed = {"logprobs": "top_logprobs"}
        if self.max_completion_tokens is not None:
            renamed["max_tokens"] = "max_completion_tokens"
        if self.random_seed is not None:
            renamed["seed"] = "random_seed"
        return renamed

    @property
    def wanted_thoughts(self) -> tuple[bool | str | None, str]:
        """``thinking`` says whether, ``reasoning_effort`` how hard."""
        whether = super().wanted_thoughts
        if self.reasoning_effort is None or whether[0] is False:
            return whether
        return self.reasoning_effort, "reasoning_effort"

    @property
    def budgets(self) -> dict[str, int | None]:
        return {"thinking.budget_tokens": self.budget_tokens, **super().budgets}


class RenderRequest(ChatRequest, kw_only=True, forbid_unknown_fields=True):
    """A chat request that is only rendered."""

    tools: list[dict[str, Any]] | None = None


def sampling_params(request: ChatRequest, preferences: dict[str, Any]) -> SamplingParams:
    fields = msgspec.structs.asdict(request)
    if request.max_completion_tokens is not None:
        fields["max_tokens"] = request.max_completion_tokens
    if request.random_seed is not None:
        if request.seed is not None:
            raise RequestError(
                "random_seed is another name of seed: send one of them", "random_seed"
            )
        fields["seed"] = request.random_seed
    if request.top_logprobs and not request.logprobs:
        raise RequestError("top_logprobs needs logprobs: true", "top_logprobs")
    fields["logprobs"] = (request.top_logprobs or 0) if request.logprobs else None
    return from_fields(fields, preferences)


def chat_prompt(
    request: ChatRequest,
    template: ChatTemplate | None,
    tokenizer: Tokenizer | None,
    *,
    assistant_prefill: str = "continue",
    reasoning_parser: str = "auto",
    trusts_template: bool = False,
) -> Prompt:
    """The prompt of a request. ``template`` is the server's own, if it has one.

    Raises RequestError naming the field.
    """
    template = _own_template(request, template, tokenizer, trusts_template)
    if not request.messages:
        raise RequestError("messages must not be empty", "messages")
    if len(request.messages) > MAX_MESSAGES:
        raise RequestError(
            f"messages has {len(request.messages)} entries, at most {MAX_MESSAGES} are", "messages"
        )
    check_keys(request.messages, template.sources.values())
    return build_prompt(
        template,
        tokenizer,
        request.messages,
        continue_final_message=request.continue_final_message,
        add_generation_prompt=request.add_generation_prompt,
        tools=request.tools if isinstance(request, RenderRequest) else None,
        documents=request.documents,
        template_kwargs=template_kwargs(
            template, request.chat_template_kwargs, *request.wanted_thoughts
        ),
        parse_special_tokens=request.parse_special_tokens,
        assistant_prefill=assistant_prefill,
        reasoning_parser=reasoning_parser,
    )


def _own_template(
    request: ChatRequest,
    template: ChatTemplate | None,
    tokenizer: Tokenizer | None,
    trusted: bool,
) -> ChatTemplate:
    """The request's template if it brings one, which only a server that trusts it accepts."""
    hidden = "chat_template" in (request.chat_template_kwargs or {})
    if (request.chat_template is not None or hidden) and not trusted:
        raise RequestError(
            "Chat template is passed with request, but --trust-request-chat-template is not set. "
            "Refused request with untrusted chat template.",
            "chat_template",
        )
    if request.chat_template is not None:
        try:
            return (template or _bare(tokenizer)).replaced(request.chat_template)
        except ModelError as error:
            raise RequestError(str(error), "chat_template") from error
    if template is None:
        raise RequestError(
            "this model has no chat template: use /v1/completions, or start the server with "
            "--chat-template",
            "messages",
        )
    return template


def _bare(tokenizer: Tokenizer | None) -> ChatTemplate:
    """An empty template with the special tokens of a vocabulary that comes without one."""
    if tokenizer is None or tokenizer.bos_token_id is None:
        return ChatTemplate("", bos_token="")
    ends = [tokenizer.token_text(id) for id in tokenizer.eos_token_ids[:1]]
    return ChatTemplate(
        "", bos_token=tokenizer.token_text(tokenizer.bos_token_id), eos_token="".join(ends)
    )
