"""What one rendering of a chat template may use: steps, characters, seconds.

Whatever may take long or become large says so before it begins, with ``spend`` or ``size``; outside of
``limited`` nothing is counted, but a single thing still has its limit.
"""

from __future__ import annotations

import time
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, Sized, ValuesView
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import jinja2
from jinja2.utils import Namespace

MAX_SECONDS: Final = 5.0
MAX_STEPS: Final = 20_000_000
MAX_CHARACTERS: Final = 64 * 1024 * 1024
MAX_ITEMS: Final = 1_000_000
"""Of a value that is made a text or compared, with what is inside of it."""
ITEM: Final = 20
"""Characters that an item of a list or dict counts for, besides its text."""


class LimitError(jinja2.TemplateError):
    """A template does more than templates do."""


class _Budget:
    """What one rendering has used."""

    def __init__(self) -> None:
        self.steps = 0
        self.characters = 0
        self.deadline = time.monotonic() + MAX_SECONDS

    def spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS or time.monotonic() > self.deadline:
            raise LimitError("it takes too long")

    def write(self, characters: int) -> None:
        self.characters += characters
        if self.characters > MAX_CHARACTERS:
            raise LimitError("it writes too much")


_budget: ContextVar[_Budget | None] = ContextVar("budget", default=None)


@contextmanager
def limited() -> Iterator[None]:
    """Renderings inside are counted together, also those inside of another ``limited()``. Raises
    LimitError where they exceed the limits."""
    if _budget.get() is not None:
        yield
        return
    token = _budget.set(_Budget())
    try:
        yield
    finally:
        _budget.reset(token)


def spend(steps: int = 1) -> None:
    budget = _budget.get()
    if budget is not None:
        budget.spend(steps)


def write(characters: int) -> None:
    budget = _budget.get()
    if budget is not None:
        budget.write(characters)


def size(length: int) -> None:
    """Before something of ``length`` characters or items is built."""
    if length > MAX_CHARACTERS:
        raise LimitError("it builds too much")
    if length > 1000:
        write(length)


def weight(value: Any) -> int:
    """About the characters of ``str(value)``, at least 1, found without building it: lists may hold
    one another many times. Raises LimitError for too many characters or items."""
    if isinstance(value, (str, bytes)):
        return len(value) or 1
    characters, items, parts = 1, 0, [value]
    while parts:
        part = parts.pop()
        if isinstance(part, (str, bytes)):
            characters += len(part)
        elif isinstance(part, int):
            characters += part.bit_length() // 3
        elif inner := _inner(part):
            items += len(inner)
            if items <= MAX_ITEMS:
                spend(len(inner))
                parts += inner
        if items > MAX_ITEMS or characters > MAX_CHARACTERS:
            raise LimitError("it builds too much")
    return characters + ITEM * items


def _inner(value: Any) -> list[Any]:
    """What ``str(value)`` shows of other values."""
    if isinstance(value, Namespace):
        value = value._Namespace__attrs
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    return [*value] if isinstance(value, (list, tuple, ItemsView, KeysView, ValuesView)) else []


def compared(value: Any) -> Any:
    """What is compared or looked up, which may take as long as there is something in it."""
    if isinstance(value, (list, tuple, dict)):
        weight(value)
    return value


def counted(iterable: Any) -> Iterable[Any]:
    """What is gone over, at the price of its length; that is spent first if it is known."""
    if isinstance(iterable, Sized) and not isinstance(iterable, jinja2.Undefined):
        spend(len(iterable) + 1)
        return iterable  # type: ignore[return-value]
    return _each(iterable)


def _each(iterable: Iterable[Any]) -> Iterator[Any]:
    for item in iterable:
        spend()
        yield item
