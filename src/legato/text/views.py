"""A conversation as a template renders it in different ways, with placeholders for the last words."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, NamedTuple

from legato.errors import RequestError
from legato.text.messages import Message, with_text
from legato.text.template import ChatTemplate

_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")


class ShownReasoning(NamedTuple):
    """What a template writes before a message's reasoning, and between it and the content."""

    header: str
    between: str


class Views:
    """Each view is None where the template cannot render it; ``refusal`` then says why."""

    def __init__(
        self, template: ChatTemplate, messages: list[Message], options: dict[str, Any]
    ) -> None:
        self._template = template
        self._before, self._last = messages[:-1], messages[-1]
        self._options = options
        self._placeholder = unused_word(messages, "PLACEHOLDER")
        self._thought = unused_word(messages, "THOUGHT")
        self.generation_prompt = cache(self._generation_prompt)
        self.refusal = RequestError(
            "the chat template does not show the assistant's message, so it cannot be continued",
            f"messages[{len(messages) - 1}]",
        )

    def _generation_prompt(self) -> str | None:
        """None also for a first message: templates set up a conversation at its first message."""
        if not self._before:
            return None
        return self._render(self._before, add_generation_prompt=True)

    def conversation(self) -> str | None:
        """Everything before the answer, without a generation prompt."""
        return self._render(self._before, add_generation_prompt=False)

    def opens_unasked(self) -> bool:
        """Whether the conversation ends in an opened turn, though no generation prompt is asked for.

        It does where the template's own text stands behind the last words. Not if that only ends their
        turn: then the same stands there where an answer follows, and the answer's header behind it.
        The end of a text opens nothing, nor does an answer: the next one is joined to it.
        """
        *earlier, last = self._before
        if last["role"] == "assistant":
            return False
        question = unused_word([*self._before, self._last], "QUESTION")
        asked = with_text(last, question, self._template.content_format)
        options = {**self._options, "eos_token": ""}
        views = Views(self._template, [*earlier, asked, self._last], options)
        whole, cut = views.conversation(), views.cut()
        if whole is None or cut is None:
            return False
        end, header = (text.rpartition(question)[2].strip() for text in (whole, cut))
        return bool(end) and (end == header or not header.startswith(end))

    def cut(self) -> str | None:
        """What stands before the content; None unless it is shown exactly once."""
        text = self._with_placeholder({})
        if text is None or text.count(self._placeholder) != 1:
            return None
        return text[: text.index(self._placeholder)]

    def reasoning(self) -> ShownReasoning | None:
        """None unless the template shows reasoning and content once each, in this order."""
        for field in _REASONING_FIELDS:
            text = self._with_placeholder({field: self._thought})
            if text is None or (text.count(self._placeholder), text.count(self._thought)) != (1, 1):
                continue
            header, _, rest = text.partition(self._thought)
            between, found, _ = rest.partition(self._placeholder)
            if found:
                return ShownReasoning(header, between)
        return None

    def _with_placeholder(self, more: Message) -> str | None:
        plain = {name: v for name, v in self._last.items() if name not in _REASONING_FIELDS}
        message = with_text({**plain, **more}, self._placeholder, self._template.content_format)
        return self._render([*self._before, message], add_generation_prompt=False)

    def _render(self, messages: list[Message], *, add_generation_prompt: bool) -> str | None:
        try:
            return self._template.render(
                messages, add_generation_prompt=add_generation_prompt, **self._options
            )
        except RequestError as error:
            self.refusal = error
            return None


def unused_word(messages: list[Message], stem: str) -> str:
    """A word without white space that occurs nowhere in the conversation."""
    conversation = json.dumps(messages, default=str)
    word, number = f"LEGATO{stem}", 0
    while word in conversation:
        number += 1
        word = f"LEGATO{stem}{number}X"
    return word
