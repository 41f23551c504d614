"""Thoughts that a request has a say in: whether the model thinks, and for how many tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from jinja2 import nodes
from jinja2.meta import find_undeclared_variables
from msgspec import structs

from legato.errors import RequestError
from legato.request import Thinking
from legato.text.continuation import Prompt
from legato.text.messages import prepare
from legato.text.parting import block_at, state_at_seam
from legato.text.reasoning import HARMONY, Block, block_of
from legato.text.resuming import spelled
from legato.text.resumption import Resumption
from legato.text.sandbox import ENVIRONMENT
from legato.text.seam import reasoning_seam
from legato.text.template import ChatTemplate
from legato.text.vocabulary import Tokenizer

SWITCHES: Final = frozenset({"enable_thinking", "thinking", "reasoning"})
EFFORT: Final = "reasoning_effort"
_ASKED: Final = frozenset({"defined", "undefined"})
_CHAT: Final = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi"}]


def thinking_of(
    prompt: Prompt,
    budget: int | None,
    tokenizer: Tokenizer,
    field: str = "max_thinking_tokens",
) -> Thinking | None:
    """The reasoning block of the answers to ``prompt``; None if no thoughts are to come.

    ``budget`` is how many tokens of thoughts there may be, those that were given included. Raises
    RequestError, naming ``field``, for a budget where the model has no thoughts at all.
    """
    block = block_at(prompt)
    if block is None or prompt.template is None:
        if budget is not None:
            raise RequestError(f"{field}: this model has no thoughts to limit", field)
        return None
    where = state_at_seam(prompt, block)
    if where in ("closed", "content"):
        return None
    closing = _closing(prompt.template, block)
    header = 0  # tokens before the thoughts that count as thoughts
    if block == HARMONY and where == "start":
        # Whatever channel it begins on, all is thought until the final one.
        if budget == 0:
            closing = block.closing
        else:
            header = len(tokenizer.encode(block.opening, add_special_tokens=False))
    return Thinking(
        opening=block.opening.encode(),
        closing=block.closing.encode(),
        is_open=where == "inside" or block == HARMONY,
        budget=None if budget is None else budget + header,
        closing_ids=tokenizer.encode(closing, add_special_tokens=False),
    )


def resumed(
    thinking: Thinking, prompt: Prompt, resumption: Resumption, tokenizer: Tokenizer
) -> Thinking:
    """With the tokens of given thoughts as used, and their end, but for what will be spelled again."""
    if not (thinking.is_open and prompt.prefill):
        return thinking
    opening = thinking.opening.decode()
    own = prompt.prefill.lstrip().startswith(opening)
    mark = (
        prompt.text.find(opening, prompt.seam)
        if own
        else prompt.text.rfind(opening, 0, prompt.seam)
    )
    # Where the model writes the mark, the white space behind it is counted, too.
    start = max(mark + len(opening), prompt.answer_start)
    given = spelled(
        prompt.text[start:], [*resumption.output_token_ids, *resumption.draft], tokenizer
    )
    left = len(given) - len(resumption.pending)
    begun = (
        given[: max(left, 0)][-len(thinking.closing) + 1 :] if len(thinking.closing) > 1 else b""
    )
    used = 0
    for id in reversed([*resumption.prompt_token_ids, *resumption.output_token_ids]):
        if left <= 0:
            break
        left -= len(tokenizer.token_bytes(id))
        used += 1
    return structs.replace(thinking, used=used, begun=begun)


@lru_cache(maxsize=16)
def _closing(template: ChatTemplate, block: Block) -> str:
    """What stands between thoughts and content, as the template writes it if it does."""
    try:
        turns = prepare([*_CHAT], template.content_format, template.role)
        between = reasoning_seam(template, turns, {}).between
    except RequestError:
        return block.end
    return between if block.closing in between else block.end


@dataclass(frozen=True)
class Wish:
    """What becomes of a client's wish that the model think, or not."""

    template_kwargs: dict[str, Any] = field(default_factory=dict)
    forbids: bool = False  # no variable does it, so there must be no tokens for thoughts


def wish(template: ChatTemplate, think: bool | str | None, name: str) -> Wish:
    """``think``: whether, or how hard: ``low``, ``medium``, ``high``; ``none`` is not at all, and
    ``auto`` is if it can.

    The template is told by the variables that it reads. Where none of them turns thoughts off, a
    budget of 0 does. Raises RequestError, naming the field ``name``, if the model cannot.
    """
    if think is None:
        return Wish()
    reads, thinks = _variables(template), block_of(template.sources.values()) is not None
    if think is False or think == "none":
        off = dict.fromkeys(sorted(SWITCHES & reads), False)
        return Wish(off, forbids=thinks and not off)
    told: dict[str, Any] = dict.fromkeys(sorted(SWITCHES & reads), True)
    if think == "auto":
        return Wish(told)
    if not thinks and not (SWITCHES | {EFFORT}) & reads:
        raise RequestError(f"{name}: this model does not think", name)
    if think is True:
        return Wish(told)
    if EFFORT not in reads:
        raise RequestError(f"{name}: this model's thoughts have no degrees", name)
    return Wish({**told, EFFORT: think})


def template_kwargs(
    template: ChatTemplate, given: dict[str, Any] | None, think: bool | str | None, name: str
) -> dict[str, Any]:
    """What the template is told: the wish, and what the client says itself."""
    return {**wish(template, think, name).template_kwargs, **(given or {})}


@lru_cache(maxsize=16)
def _variables(template: ChatTemplate) -> frozenset[str]:
    """What the template reads that it does not set, or sets only where nobody else did."""
    found: set[str] = set()
    for source in template.sources.values():
        parsed = ENVIRONMENT.parse(source)
        found |= find_undeclared_variables(parsed)
        tests = (test for test in parsed.find_all(nodes.Test) if test.name in _ASKED)
        found |= {test.node.name for test in tests if isinstance(test.node, nodes.Name)}
    return frozenset(found)
