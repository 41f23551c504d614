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
    asking for a generation prompt   generation prompt if the template opens a turn unasked,
      changes nothing, and the cut     else cut
      goes another way

Words that bring a reasoning block of their own get no second one, and words that close the block which
the generation prompt opened stand inside it.
"""

from __future__ import annotations

from os.path import commonprefix
from typing import Any, NamedTuple

from legato.text.messages import Message
from legato.text.reasoning import (
    DEFAULT,
    Block,
    block_of,
    brings_block,
    closes,
    has_closing,
    open_block,
    without_block,
)
from legato.text.template import ChatTemplate
from legato.text.views import Views


def answer_header(
    template: ChatTemplate, messages: list[Message], options: dict[str, Any], words: str = ""
) -> str:
    """What stands in the prompt before ``words``, the beginning of the last message's content.

    ``messages`` are prepared (``legato.text.messages``); ``options`` go to the template.
    Raises RequestError if the template can render neither candidate.
    """
    return _content_header(Views(template, messages, options), words)


class ReasoningSeam(NamedTuple):
    """What stands before the reasoning, and between it and the content."""

    header: str
    between: str


def reasoning_seam(
    template: ChatTemplate,
    messages: list[Message],
    options: dict[str, Any],
    named: Block | None = None,
) -> ReasoningSeam:
    """Where the last message's reasoning begins, and how it is closed.

    As the template shows it, if it does; else with the marks that are ``named``, or that its source or
    its generation prompt has; else with ``<think>``. Raises RequestError as ``answer_header`` does.
    """
    views = Views(template, messages, options)
    prompt = views.generation_prompt()
    shown = views.reasoning()
    opened = open_block(prompt) if prompt is not None else None
    if prompt is not None and opened is not None:
        return ReasoningSeam(prompt, opened.end if shown is None else shown.between)
    if shown is not None:
        return ReasoningSeam(_with_models_start(prompt, shown.header), shown.between)
    content = without_block(_content_header(views, ""))
    block = named or block_of(template.sources.values())
    if block is None or prompt is None:
        block = block or DEFAULT
        return ReasoningSeam(content + block.begin, block.end)
    prompt = without_block(prompt)
    more = content[len(prompt) :] if content.startswith(prompt) else ""
    return ReasoningSeam(prompt + block.begin, block.end + more)


def _with_models_start(prompt: str | None, header: str) -> str:
    """The header as the template shows it, behind the generation prompt with its own white space.

    What the template writes between the generation prompt and the mark is the model's own, the white
    space included: GLM-4.5 begins its answers with a newline.
    """
    if prompt is None or header.startswith(prompt):
        return header
    stem = prompt.rstrip()
    if not header.startswith(stem):
        return header
    return prompt + header[len(stem) :].lstrip()


def _content_header(views: Views, words: str) -> str:
    prompt, cut = views.generation_prompt(), views.cut()
    if prompt is None and cut is None:
        raise views.refusal
    opened = open_block(prompt) if prompt is not None else None
    if prompt is not None and opened is not None and closes(words, opened):
        return prompt
    header = _chosen(views, prompt, cut, opened)
    return without_block(header) if brings_block(words) else header


def _chosen(views: Views, prompt: str | None, cut: str | None, opened: Block | None) -> str:
    if prompt is None or cut is None:
        header = cut if prompt is None else prompt
        assert header is not None
        return header if opened is None else _closed(views, header, "", opened)
    if opened is not None:
        return _closed(views, prompt, cut, opened)
    stem = prompt.rstrip()
    more = cut[len(stem) :] if cut.startswith(stem) else ""
    if more.strip():
        return prompt if has_closing(more) else cut
    if not cut.startswith(stem) and prompt == views.conversation():
        return prompt if views.opens_unasked() else cut
    return prompt


def _closed(views: Views, prompt: str, cut: str, block: Block) -> str:
    """The header with its reasoning block closed and nothing in it."""
    shared = len(commonprefix([prompt, cut]))
    if block.closing in cut[shared:]:
        return cut
    shown = views.reasoning()
    if shown is not None and block.closing in (shown.header + shown.between)[shared:]:
        return shown.header + shown.between
    return f"{prompt.rstrip()}\n\n{block.closing}\n\n"
