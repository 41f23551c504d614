"""The environment that chat templates run in: transformers' dialect, within limits.

A template comes with a model, or with a request. It sees only what it is given, and what it does is
counted: the turns of its loops, its calls, the characters it writes anywhere, the size of what it
builds. Time is checked while counting, so that a loop that writes nothing ends, too.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final, NoReturn

import jinja2
from jinja2 import filters, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_SECONDS: Final = 5.0
MAX_STEPS: Final = 20_000_000
MAX_CHARACTERS: Final = 64 * 1024 * 1024
_MAX_BITS: Final = 4096  # of an integer
_WIDE: Final = re.compile(r"\d{7}|\*")  # a width in a format string, or one given as an argument


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


def _spend(steps: int = 1) -> None:
    budget = _budget.get()
    if budget is not None:
        budget.spend(steps)


def _size(length: int) -> None:
    """Before something of ``length`` characters or items is built."""
    if length > MAX_CHARACTERS:
        raise LimitError("it builds too much")
    budget = _budget.get()
    if budget is not None and length > 1000:
        budget.write(length)


def _written(value: Any) -> Any:
    """Jinja's ``finalize``: every expression on its way out, into macros and blocks as well."""
    budget = _budget.get()
    if budget is not None:
        budget.write(len(value) if isinstance(value, str) else 1)
    return value


def _counted(iterable: Any) -> Iterable[Any]:
    """What a loop goes over: its length is spent when the loop begins."""
    if isinstance(iterable, Sized) and not isinstance(iterable, jinja2.Undefined):
        _spend(len(iterable) + 1)
        return iterable  # type: ignore[return-value]
    return _each(iterable)


def _each(iterable: Iterable[Any]) -> Iterator[Any]:
    for item in iterable:
        _spend()
        yield item


def _concatenated(parts: list[Any]) -> str:
    texts = [str(part) for part in parts]
    _size(sum(map(len, texts)))
    return "".join(texts)


class _Counting(NodeTransformer):
    """Lets every loop and every ``~`` pass through the functions above."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "_counted", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, "_concatenated", [], [], None, None, lineno=node.lineno)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        counted: nodes.Template = _Counting().visit(tree)
        counted.set_environment(self)
        return counted

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        _spend()
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            _check_method(owner, __obj.__name__, args)
        return super().call(__context, __obj, *args, **kwargs)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if attribute in ("format", "format_map") and isinstance(obj, str):
            _check_format(obj)  # the sandbox gives out a function of its own for these
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(argument, str) and isinstance(obj, str):
            return self.getattr(obj, argument)
        return super().getitem(obj, argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _check_operands(operator, left, right)
        return super().call_binop(context, operator, left, right)


def _check_operands(operator: str, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length()
        bits = bits * max(right, 1) if operator == "**" else bits + right.bit_length()
        if bits > _MAX_BITS:
            raise LimitError("its numbers are too large")
    elif operator == "*":
        sized, times = (left, right) if isinstance(left, Sized) else (right, left)
        if isinstance(sized, Sized) and isinstance(times, int):
            _size(len(sized) * times)
    elif operator == "+" and isinstance(left, Sized) and isinstance(right, Sized):
        _size(len(left) + len(right))
    elif operator == "%" and isinstance(left, str):
        _check_format(left)


def _check_format(text: str) -> None:
    if _WIDE.search(text):
        raise LimitError("it builds too much")


def _check_method(owner: str, name: str, args: tuple[Any, ...]) -> None:
    """Methods whose result may be much longer than what they are given."""
    if name == "replace" and len(args) > 1:
        _check_replace(owner, args[0], args[1])
    elif name == "join" and args and isinstance(args[0], Sized):
        _size(len(owner) * len(args[0]))
    elif name in ("center", "ljust", "rjust", "zfill", "expandtabs"):
        _size(
            max((arg for arg in args if isinstance(arg, int)), default=0) * (1 + owner.count("\t"))
        )


def _check_replace(text: str, old: Any, new: Any) -> None:
    _size(len(text) + str(text).count(str(old)) * len(str(new)))


class _GenerationTag(Extension):
    """``{% generation %} ... {% endgeneration %}`` marks the assistant's words; here it only scopes."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML; templates expect plain JSON."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _checked(check: Callable[..., None], filter: Callable[..., Any]) -> Callable[..., Any]:
    def checked(value: Any, *args: Any, **kwargs: Any) -> Any:
        check(value, *args, **kwargs)
        return filter(value, *args, **kwargs)

    return checked


def _check_width(value: Any, width: Any = 0, *args: Any, **kwargs: Any) -> None:
    if isinstance(width, int):
        _size(width * (1 + str(value).count("\n")))


def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[loopcontrols, _GenerationTag],
        finalize=_written,
    )
    environment.filters |= {
        "tojson": _tojson,
        "_counted": _counted,
        "_concatenated": _concatenated,
        "center": _checked(_check_width, filters.do_center),
        "indent": _checked(_check_width, filters.do_indent),
        "format": _checked(lambda text, *_, **__: _check_format(str(text)), filters.do_format),
    }
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


ENVIRONMENT: Final = _environment()
