"""The environment that chat templates run in: transformers' dialect, within limits.

A template comes with a model, or with a request. It sees only what it is given, and what it does is
counted (``budget``): the turns of its loops, its calls, the characters it writes anywhere, the size of
what it builds (``bounded``). Time is checked while counting, so that a loop that writes nothing ends,
too. Nothing is computed while a template is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import wraps
from itertools import pairwise
from typing import Any, Final, NoReturn

import jinja2
from jinja2 import nodes, pass_context
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from legato.text.bounded import (
    bounded_filters,
    bounded_tests,
    check_braces,
    check_operands,
    checked_arguments,
    concatenated,
)
from legato.text.budget import LimitError, compared, counted, limited, size, spend, weight, write

__all__ = ["ENVIRONMENT", "LimitError", "limited"]


@pass_context
def _written(context: Context, value: Any) -> Any:
    """Jinja's ``finalize``: every expression on its way out, into macros and blocks as well."""
    write(weight(value))
    return value


_VALUES: Final = (str, bytes, int, type, list, tuple, dict, LoopContext)


class _Counting(NodeTransformer):
    """Lets loops, ``~``, comparisons and keys pass through the functions of ``budget`` and ``bounded``."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _passed("_counted", node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _passed("_concatenated", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        """What is on the left: no comparison goes deeper than either side. Beside a constant there is
        no depth."""
        self.generic_visit(node)
        node.expr = _weighed(node.expr, node.ops[0])
        for operand, following in pairwise(node.ops):
            operand.expr = _weighed(operand.expr, following)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        node.key = _passed("_compared", node.key)
        return node


def _weighed(left: nodes.Expr, operand: nodes.Operand) -> nodes.Expr:
    right = operand.expr
    is_flat = isinstance(right, nodes.Const) or (isinstance(right, nodes.List) and not right.items)
    return left if is_flat else _passed("_compared", left)


def _passed(filter: str, node: Any) -> nodes.Filter:
    return nodes.Filter(node, filter, [], [], None, None, lineno=node.lineno)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "*", "**", "%", "//"))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        counted: nodes.Template = _Counting().visit(tree)
        counted.set_environment(self)
        return counted

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        spend()
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, _VALUES):
            args = checked_arguments(owner, __obj.__name__, args, kwargs)
        return super().call(__context, __obj, *args, **kwargs)

    def getattr(self, obj: Any, attribute: str) -> Any:
        found = super().getattr(obj, attribute)
        if attribute in ("format", "format_map") and isinstance(obj, str):
            return _formatting(obj, found)  # the sandbox gives out a function of its own for these
        return found

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(argument, str) and isinstance(obj, str):
            return self.getattr(obj, argument)
        return super().getitem(obj, compared(argument))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        check_operands(operator, left, right)
        return super().call_binop(context, operator, left, right)


def _formatting(text: str, format: Callable[..., str]) -> Callable[..., str]:
    @wraps(format)
    def checked(*args: Any, **kwargs: Any) -> str:
        check_braces(text, [args, kwargs])
        return format(*args, **kwargs)

    return checked


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
    size(16 * len(format))
    return datetime.now().strftime(format)


def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[loopcontrols, _GenerationTag],
        # Both leave constants to the rendering, which is limited.
        optimized=False,
        finalize=_written,
    )
    environment.filters = bounded_filters(environment.filters)
    environment.filters |= {
        "_counted": counted,
        "_compared": compared,
        "_concatenated": concatenated,
    }
    environment.tests |= bounded_tests(environment.tests)
    del environment.globals["lipsum"]
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


ENVIRONMENT: Final = _environment()
