"""Where a continued answer begins: the header that stands before the assistant's words.

Two texts are candidates. The *generation prompt* is what the model saw when it began the answer, so a
continuation behind it equals the uninterrupted run. The *cut* is what the template writes before the
content of a finished assistant message, found by rendering a placeholder as the whole content.
In four of ten published templates they differ:

    in white space only              generation prompt
    the cut has a closed, empty      generation prompt: the model might have answered at once
      reasoning block more
    the generation prompt opens a    the answer comes after the block, so the block is closed:
      reasoning block                as the template closes it, or at least with its closing mark
    the cut goes on with a header    cut: the content's channel or recipient is named there, or the
                                       template has no generation prompt
    there is no generation prompt,   cut, unless both end alike
      and the cut goes another way
"""

from __future__ import annotations

import json
from os.path import commonprefix
from typing import Any

from legato.errors import RequestError
from legato.text.messages import Message, with_text
from legato.text.reasoning import has_closing, open_block
from legato.text.template import ChatTemplate


def answer_header(template: ChatTemplate, messages: list[Message], options: dict[str, Any]) -> str:
    """What stands in the prompt before the first character of the last message's content.

    ``messages`` are prepared (``legato.text.messages``); ``options`` go to the template.
    Raises RequestError if the template can render neither candidate.
    """
    view = _View(template, messages, options)
    prompt, cut = view.generation_prompt(), view.cut()
    if prompt is None and cut is None:
        raise view.refusal
    if prompt is None or cut is None:
        return cut if prompt is None else prompt  # type: ignore[return-value]
    closing = open_block(prompt)
    if closing is not None:
        return _closed(view, prompt, cut, closing)
    stem = prompt.rstrip()
    more = cut[len(stem) :] if cut.startswith(stem) else ""
    if more.strip():
        return prompt if has_closing(more) else cut
    if not cut.startswith(stem) and prompt == view.conversation():
        return prompt if _ending(prompt) == _ending(cut) else cut
    return prompt


def _closed(view: _View, prompt: str, cut: str, closing: str) -> str:
    """The header with its reasoning block closed and nothing in it."""
    shared = len(commonprefix([prompt, cut]))
    if closing in cut[shared:]:
        return cut
    rendered = view.cut_after_reasoning()
    if rendered is not None and closing in rendered[shared:]:
        return rendered
    return f"{prompt.rstrip()}\n\n{closing}\n\n"


def _ending(header: str) -> str:
    """Enough of a header's end to tell ``[/INST]`` or ``Assistant:`` from the user's words."""
    return header.rstrip()[-6:]


class _View:
    """The conversation as a template renders it in different ways; None where it cannot."""

    def __init__(
        self, template: ChatTemplate, messages: list[Message], options: dict[str, Any]
    ) -> None:
        self._template = template
        self._before, self._last = messages[:-1], messages[-1]
        self._options = options
        self._placeholder = _unused_word(messages, "PLACEHOLDER")
        self.refusal = RequestError(
            "the chat template does not show the assistant's message, so it cannot be continued",
            f"messages[{len(messages) - 1}]",
        )

    def generation_prompt(self) -> str | None:
        """None also for a first message: templates set up a conversation at its first message."""
        if not self._before:
            return None
        return self._render(self._before, add_generation_prompt=True)

    def conversation(self) -> str | None:
        """Everything before the answer, without a generation prompt."""
        return self._render(self._before, add_generation_prompt=False)

    def cut(self, last: Message | None = None) -> str | None:
        """What stands before the placeholder; None unless it is found exactly once."""
        message = with_text(last or self._last, self._placeholder, self._template.content_format)
        text = self._render([*self._before, message], add_generation_prompt=False)
        if text is None or text.count(self._placeholder) != 1:
            return None
        return text[: text.index(self._placeholder)]

    def cut_after_reasoning(self) -> str | None:
        """As ``cut``, for a message with reasoning, which is then taken out again."""
        thought = _unused_word([*self._before, self._last], "THOUGHT")
        text = self.cut({**self._last, "reasoning_content": thought})
        if text is None or text.count(thought) != 1:
            return None
        return text.replace(thought, "")

    def _render(self, messages: list[Message], *, add_generation_prompt: bool) -> str | None:
        try:
            return self._template.render(
                messages, add_generation_prompt=add_generation_prompt, **self._options
            )
        except RequestError as error:
            self.refusal = error
            return None


def _unused_word(messages: list[Message], stem: str) -> str:
    """A word without white space that occurs nowhere in the conversation."""
    conversation = json.dumps(messages, default=str)
    word, number = f"LEGATO{stem}", 0
    while word in conversation:
        number += 1
        word = f"LEGATO{stem}{number}X"
    return word
