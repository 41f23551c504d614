"""What callers of ``LLM`` pass, in any of vLLM's forms. What is none of them is a RequestError that names
the argument."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from legato.errors import RequestError
from legato.request import SamplingParams
from legato.text.messages import Message

TokenIds = Sequence[int]  # or an array of whole numbers
PromptLike = str | TokenIds | Mapping[str, Any]
Params = SamplingParams | Sequence[SamplingParams] | None

PROMPT_KEYS = ("prompt", "prompt_token_ids")


def prompts_of(given: PromptLike | Iterable[PromptLike]) -> list[str | list[int]]:
    """One prompt, or several: each a text, token ids, or a dictionary with either."""
    if isinstance(given, (str, Mapping)):
        return [prompt_of(given)]
    several = _items(given, "prompts")
    if several and _is_whole(several[0]):
        return [prompt_of(several)]
    return [prompt_of(one, f"prompts[{index}]") for index, one in enumerate(several)]


def prompt_of(given: Any, field: str = "prompts") -> str | list[int]:
    if isinstance(given, Mapping):
        if len(given) != 1 or not given.keys() <= {*PROMPT_KEYS}:
            raise RequestError(
                f"{field} must have one of the keys {' and '.join(PROMPT_KEYS)}, got "
                f"{', '.join(map(str, given)) or 'none'}",
                field,
            )
        ((key, given),) = given.items()
        field = f"{field}.{key}"
    if isinstance(given, str):
        return given
    ids = _items(given, field)
    for id in ids:
        if isinstance(id, bool) or not _is_whole(id):
            raise RequestError(f"{field} must be a text or token ids, not of {_kind(id)}", field)
    return list(map(operator.index, ids))


def conversations_of(given: Iterable[Any]) -> list[list[Message]]:
    """One conversation, or several."""
    several = _items(given, "messages")
    if several and isinstance(several[0], Mapping):
        return [several]
    return [_items(one, "messages") for one in several]


def params_of(given: Params, count: int, default: SamplingParams) -> list[SamplingParams]:
    """One for each of ``count`` prompts."""
    if given is None or isinstance(given, SamplingParams):
        return [default if given is None else given] * count
    each = _items(given, "sampling_params")
    for one in each:
        if not isinstance(one, SamplingParams):
            raise RequestError(
                f"sampling_params must be SamplingParams or a list of them, not of {_kind(one)}",
                "sampling_params",
            )
    if len(each) != count:
        raise RequestError(f"{count} prompts, but {len(each)} sampling_params", "sampling_params")
    return each


@contextmanager
def unicode_only(field: str) -> Iterator[None]:
    """Half of a surrogate pair can stand in a Python string, but is no text."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise RequestError(f"{field}: {error}", field) from None


def _items(given: Any, field: str) -> list[Any]:
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise RequestError(f"{field} must not be {_kind(given)}", field)
    return list(given)


def _is_whole(value: Any) -> bool:
    """Numbers of NumPy are whole, too."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def _kind(value: Any) -> str:
    return type(value).__name__
