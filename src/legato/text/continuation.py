"""From messages to the prompt: the one place that decides where the answer begins.

A conversation that ends with the assistant's message is continued there, byte for byte; any other is
given the template's generation prompt. ``precedence`` has the rules, ``seam`` the place, ``quoting``
keeps what a client wrote from being read as control tokens.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any, Literal

from legato.errors import RequestError
from legato.text.messages import Message, marked, prepare, reasoning_of, text_of
from legato.text.precedence import ContinueFinalMessage, Outcome, Signals, decide, said
from legato.text.quoting import Quotes
from legato.text.reasoning import Block, brings_block
from legato.text.reasoning_parsers import PARSERS
from legato.text.seam import answer_header, reasoning_seam
from legato.text.template import RESERVED, ChatTemplate
from legato.text.views import Views
from legato.text.vocabulary import Tokenizer

_UNCONTINUABLE = ("tool_calls", "function_call")


@dataclass(frozen=True)
class Prompt:
    """What the model is given. ``text`` ends with ``prefill``, which begins at ``seam``.

    ``token_ids`` are those of the whole text. The model that wrote the answer saw a header and then its
    own words, which may be other ids at the border: where a chat's answer is continued,
    ``header_ids`` and ``words_ids`` are those of ``text[:answer_start]`` and of the rest. Of a raw
    prompt that names its answer, ``header_ids`` are those before the answer.
    """

    text: str
    token_ids: list[int]
    seam: int  # character offset in ``text`` where the answer begins
    prefill: str  # the part of the answer that the client wrote
    field: Literal["content", "reasoning_content"] = "content"  # what ``prefill`` belongs to
    reasoning: str = ""  # reasoning the client wrote, closed before ``seam``
    template: ChatTemplate | None = None  # that made it; None: no template did
    reasoning_parser: str = "auto"  # how its answers' thoughts are told from their content
    is_text: bool = True  # False: the client gave token ids
    names_answer: bool = False  # a raw prompt whose client said that its answer begins at ``seam``
    answer_start: int = -1  # character offset where the model's own words begin; -1: ``seam``
    header_ids: list[int] = dataclasses.field(default_factory=list)  # as the model saw them
    words_ids: list[int] = dataclasses.field(default_factory=list)  # of what it would have written

    def __post_init__(self) -> None:
        if self.answer_start < 0:
            object.__setattr__(self, "answer_start", self.seam)

    @property
    def is_completion(self) -> bool:
        """No chat: all of the text is given words."""
        return self.template is None

    @property
    def continues(self) -> bool:
        """Whether the client gave the beginning of the answer."""
        return self.is_completion or bool(self.prefill or self.reasoning)


def build_prompt(
    template: ChatTemplate,
    tokenizer: Tokenizer | None,
    messages: list[Message],
    *,
    continue_final_message: ContinueFinalMessage | None = None,
    add_generation_prompt: bool | None = None,
    tools: list[dict[str, Any]] | None = None,
    documents: list[dict[str, Any]] | None = None,
    template_kwargs: dict[str, Any] | None = None,
    parse_special_tokens: bool = False,
    assistant_prefill: str = "continue",
    reasoning_parser: str = "auto",
) -> Prompt:
    """Render and tokenise a conversation. With no flag given, the last message decides.

    Without a tokenizer there are no token ids. ``parse_special_tokens`` reads the names of control
    tokens in the client's text as control. ``assistant_prefill`` is the server's policy for a last
    message from the assistant (``config.ASSISTANT_PREFILLS``), ``reasoning_parser`` the name of the
    marks of thoughts that the template does not show. Raises RequestError naming the field.
    """
    turns = prepare(messages, template.content_format, template.role)
    given = {**_checked(template_kwargs), "tools": tools, "documents": documents}
    quoted = None if parse_special_tokens or tokenizer is None else tokenizer.control_names
    quotes = Quotes(quoted, [turns, given])
    turns, options = quotes.quote(turns), quotes.quote(given)
    flags = (continue_final_message, add_generation_prompt)
    outcome = _outcome(messages, *flags, assistant_prefill)
    if outcome is Outcome.CONTINUE:
        block = PARSERS.get(reasoning_parser)
        wanted = continue_final_message
        prompt = _continued(template, turns, options, quotes, messages[-1], wanted, block)
        prompt = _with_answer_start(prompt, template, turns, options)
    else:
        opens = outcome is Outcome.NEW_TURN
        text = template.render(turns, add_generation_prompt=opens, **options)
        prompt = Prompt(text, [], len(text), "")
    prompt = replace(prompt, template=template, reasoning_parser=reasoning_parser)
    return _restored(_encoded(prompt, tokenizer, quotes) if tokenizer else prompt, quotes)


def _encoded(prompt: Prompt, tokenizer: Tokenizer, quotes: Quotes) -> Prompt:
    ids = tokenizer.encode_prompt(prompt.text, prompt.seam, quotes)
    if not prompt.continues:
        return replace(prompt, token_ids=ids)
    start = prompt.answer_start
    words = tokenizer.encode_words(prompt.text[start:], max(prompt.seam - start, 0), quotes)
    # The header ends with the prompt's last control token, if there is none in the words.
    known = [] if tokenizer.special_ids.intersection(words) else ids
    header = tokenizer.encode_header(prompt.text[:start], quotes, known)
    return replace(prompt, token_ids=ids, header_ids=header, words_ids=words)


def _outcome(
    messages: list[Message],
    continue_final_message: ContinueFinalMessage | None,
    add_generation_prompt: bool | None,
    policy: str,
) -> Outcome:
    mark = marked(messages)
    signals = Signals(
        last="assistant" if messages[-1]["role"] == "assistant" else "other",
        continue_final_message=said(continue_final_message),
        add_generation_prompt=said(add_generation_prompt),
        prefix=said(True if mark else None),
        policy=policy,
    )
    return decide(signals, mark or "prefix")


def _continued(
    template: ChatTemplate,
    turns: list[Message],
    options: dict[str, Any],
    quotes: Quotes,
    message: Message,
    wanted: ContinueFinalMessage | None,
    block: Block | None,
) -> Prompt:
    """The prompt, still quoted. ``message`` is the last one as the client sent it."""
    where = f"messages[{len(turns) - 1}]"
    for name in _UNCONTINUABLE:
        if message.get(name):
            raise RequestError(f"{where}.{name}: this cannot be continued", f"{where}.{name}")
    content = text_of(message.get("content"), f"{where}.content")
    reasoning = reasoning_of(message, where)
    field = _field(wanted, content, reasoning, where)
    words, thoughts = quotes.quote(content), quotes.quote(reasoning or "")
    if field == "content" and not thoughts:
        header = answer_header(template, turns, options, words)
        return Prompt(header + words, [], len(header), words)
    header, between = reasoning_seam(template, turns, options, block)
    if field == "reasoning_content":
        return Prompt(header + thoughts, [], len(header), thoughts, field)
    if thoughts.endswith("\n"):  # the model's own newline before the closing mark
        between = between.removeprefix("\n")
    before = header + thoughts + between
    return Prompt(before + words, [], len(before), words, field, thoughts)


def _with_answer_start(
    prompt: Prompt, template: ChatTemplate, turns: list[Message], options: dict[str, Any]
) -> Prompt:
    """The model writes thoughts and their marks itself: then its words begin before the seam."""
    thinks = prompt.field == "reasoning_content" or prompt.reasoning or brings_block(prompt.prefill)
    if not thinks:
        return prompt
    seen = Views(template, turns, options).generation_prompt()
    if seen is None or not prompt.text.startswith(seen):
        return prompt
    return replace(prompt, answer_start=len(seen))


def _field(
    wanted: ContinueFinalMessage | None, content: str, reasoning: str | None, where: str
) -> Literal["content", "reasoning_content"]:
    """Which of the message's two fields goes on."""
    if wanted != "reasoning_content":
        return "content" if content or not reasoning or wanted == "content" else "reasoning_content"
    if reasoning is None:
        problem = f"{where} has no reasoning_content to continue"
    elif content:
        problem = f"{where}.reasoning_content cannot be continued: the content comes after it"
    else:
        return "reasoning_content"
    raise RequestError(problem, "continue_final_message")


def _restored(prompt: Prompt, quotes: Quotes) -> Prompt:
    """The prompt as the client's text has it."""
    if not quotes:
        return prompt
    header, prefill = quotes.restore(prompt.text[: prompt.seam]), quotes.restore(prompt.prefill)
    return replace(
        prompt,
        text=header + prefill,
        seam=len(header),
        answer_start=len(quotes.restore(prompt.text[: prompt.answer_start])),
        prefill=prefill,
        reasoning=quotes.restore(prompt.reasoning),
    )


def _checked(template_kwargs: dict[str, Any] | None) -> dict[str, Any]:
    kwargs = template_kwargs or {}
    taken = RESERVED & kwargs.keys()
    if taken:
        raise RequestError(
            f"chat_template_kwargs cannot set {', '.join(sorted(taken))}", "chat_template_kwargs"
        )
    return kwargs
