"""The filters, methods and operators of chat templates whose results can be much larger than what
they are given: each is checked before it builds anything, and raises LimitError.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from functools import wraps
from string import Formatter
from typing import Any, Final, NoReturn

from jinja2 import Undefined, filters, pass_eval_context
from jinja2.nodes import EvalContext

from legato.text.budget import (
    ITEM,
    MAX_CHARACTERS,
    LimitError,
    compared,
    counted,
    size,
    spend,
    weight,
)

_MAX_BITS: Final = 4096  # of an integer
_MAX_DIGITS: Final = 1000  # of one that is read from a text
_MAX_PLACES: Final = 100  # that are rounded to, or indented by
_WIDE: Final = re.compile(r"\d{7}|%[-+ #0-9.]*\*")  # a width, or one given as an argument
_NUMBER: Final = re.compile(r"\d+")

_ABSENT: Final = frozenset(
    "batch filesizeformat pprint slice striptags urlencode urlize wordcount wordwrap xmlattr".split()
)
"""Filters for web pages, which no published template uses: refused where one is reached."""

_OF_TEXT: Final = frozenset(
    "capitalize e escape forceescape lower safe string trim truncate upper".split()
)
"""Filters that make a text of what they are given."""

_OF_ITEMS: Final = frozenset(
    "dictsort groupby items list map max min reject rejectattr reverse select selectattr sort sum "
    "unique".split()
)
"""Filters that go over all items."""

_COMPARING: Final = frozenset(
    "dictsort groupby max min sort unique "
    "!= < <= == > >= eq equalto ge greaterthan gt in le lessthan lt ne".split()
)
"""Filters and tests that compare values."""

_CODECS: Final = frozenset("utf-8 utf8 ascii latin-1 strict ignore replace".split())


def bounded_filters(all_filters: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """``all_filters`` of Jinja without those that no chat needs; what remains is checked."""
    checks: dict[str, Callable[..., None]] = {
        **dict.fromkeys(_OF_TEXT, _check_text),
        **dict.fromkeys(_COMPARING, _check_compared),
        "center": _check_width,
        "format": lambda text, *args, **kwargs: check_percent(str(text), [args, kwargs]),
        "indent": _check_width,
        "int": _check_digits,
        "replace": _check_replace,
        "round": _check_precision,
        "sum": _check_sum,
        "title": _check_title,
    }
    found = {
        name: _checked(filter, checks.get(name), goes_over=name in _OF_ITEMS)
        for name, filter in all_filters.items()
    }
    found |= {name: _refused(name) for name in _ABSENT}
    return found | {"join": _join, "tojson": _tojson}


def _refused(name: str) -> Callable[..., Any]:
    def refused(*args: Any, **kwargs: Any) -> NoReturn:
        raise LimitError(f"it uses the filter {name}, which is not there")

    return refused


def bounded_tests(all_tests: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _checked(test, _check_pair) if name in _COMPARING else test
        for name, test in all_tests.items()
    }


def _checked(
    filter: Callable[..., Any], check: Callable[..., None] | None, goes_over: bool = False
) -> Callable[..., Any]:
    before = 1 if hasattr(filter, "jinja_pass_arg") else 0  # arguments before the value

    @wraps(filter)
    def checked(*args: Any, **kwargs: Any) -> Any:
        spend()
        if check is not None:
            check(*args[before:], **kwargs)
        if goes_over and _has_items(args[before]):
            args = (*args[:before], counted(args[before]), *args[before + 1 :])
        return filter(*args, **kwargs)

    return checked


def _has_items(value: Any) -> bool:
    return isinstance(value, (Sized, Iterator)) and not isinstance(value, Undefined)


def _check_text(value: Any, *args: Any, **kwargs: Any) -> None:
    if not isinstance(value, str):
        size(weight(value))


def _check_title(value: Any) -> None:
    """It takes the text apart."""
    spend(weight(value))


def _check_compared(value: Any, *args: Any, **kwargs: Any) -> None:
    compared(value)


def _check_pair(value: Any, other: Any) -> None:
    if isinstance(other, (list, tuple, dict)):  # else there is no depth
        compared(value)


def _check_width(value: Any, width: Any = 4, *args: Any, **kwargs: Any) -> None:
    _check_text(value)
    places = width if isinstance(width, int) else weight(width)
    size(places * (1 + str(value).count("\n")))


def _check_digits(value: Any, default: Any = 0, base: Any = 10) -> None:
    if base != 10 and isinstance(value, str) and len(value) > _MAX_DIGITS:
        raise LimitError("its numbers are too large")


def _check_precision(value: Any, precision: Any = 0, method: Any = "") -> None:
    if isinstance(precision, int) and abs(precision) > _MAX_PLACES:
        raise LimitError("its numbers are too large")


def _check_sum(value: Any, attribute: Any = None, start: Any = 0) -> None:
    """Lists are copied at each step."""
    if isinstance(start, (list, tuple)) and attribute is None:
        parts = [*value] if isinstance(value, (list, tuple)) else []
        size(len(parts) * sum(len(part) for part in parts if isinstance(part, Sized)))
    elif not isinstance(start, (int, float)):
        raise LimitError("it sums what are no numbers")


def _check_replace(text: Any, old: Any, new: Any, *args: Any, **kwargs: Any) -> None:
    for value in (text, old, new):
        _check_text(value)
    text, old, new = map(str, (text, old, new))
    size(len(text) + text.count(old) * len(new))


@pass_eval_context
def _join(context: EvalContext, value: Any, d: Any = "", attribute: Any = None) -> str:
    items = [*counted(value)]
    if attribute is not None:
        items = [*map(filters.make_attrgetter(context.environment, attribute), items)]
    _check_join(d, items)
    joined: str = filters.do_join(context, items, d)
    return joined


def _check_join(between: Any, items: list[Any]) -> None:
    size(weight(items) + weight(between) * len(items))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML; templates expect plain JSON."""
    if weight("".join(separators or ())) > ITEM:
        raise LimitError("it builds too much")
    size(weight(value) * (6 if ensure_ascii else 1))
    if indent is None:
        return json.dumps(
            value, ensure_ascii=ensure_ascii, separators=separators, sort_keys=sort_keys
        )
    if (indent if isinstance(indent, int) else len(indent)) > _MAX_PLACES:
        raise LimitError("it builds too much")
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    return "".join(_measured(encoder.iterencode(value)))


def _measured(parts: Iterable[str]) -> Iterator[str]:
    """Deep values are indented at each of their lines."""
    length = 0
    for part in parts:
        spend()
        length += len(part)
        if length > MAX_CHARACTERS:
            raise LimitError("it builds too much")
        yield part


def concatenated(parts: list[Any]) -> str:
    """What ``~`` does."""
    size(weight(parts))
    return "".join(map(str, parts))


def check_operands(operator: str, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length()
        bits = bits * max(right, 1) if operator == "**" else bits + right.bit_length()
        if bits > _MAX_BITS:
            raise LimitError("its numbers are too large")
    elif operator == "*":
        sized, times = (left, right) if isinstance(left, Sized) else (right, left)
        if isinstance(sized, Sized) and isinstance(times, int):
            size(len(sized) * times)
    elif operator == "+" and isinstance(left, Sized) and isinstance(right, Sized):
        size(len(left) + len(right))
    elif operator == "%" and isinstance(left, (str, bytes)):
        check_percent(left if isinstance(left, str) else left.decode("latin-1"), right)


def check_percent(text: str, given: Any) -> None:
    """``text % given``: each of its places may show everything."""
    spend(text.count("%"))
    _check_format(text, text.count("%"), weight(given), [text])


def check_braces(text: str, given: Any) -> None:
    """``text.format(*given)``."""
    spend(text.count("{"))
    fields = [spec for _, _, spec, _ in Formatter().parse(text) if spec is not None]
    if any("{" in spec for spec in fields):
        raise LimitError("it builds too much")  # a width given as an argument
    _check_format(text, len(fields), weight(given), fields)


def _check_format(text: str, fields: int, each: int, specs: list[str]) -> None:
    if any(map(_WIDE.search, specs)):
        raise LimitError("it builds too much")
    widths = sum(int(number) for spec in specs for number in _NUMBER.findall(spec))
    size(len(text) + fields * each + widths)


def checked_arguments(
    owner: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """For a method of Python's own values; an iterator among the arguments comes back as a list."""
    given = [*args, *kwargs.values()]
    numbers = [value for value in given if isinstance(value, int)]
    if name in ("translate", "striptags", "unescape"):
        raise LimitError(f"it calls {name}()")
    if name in ("encode", "decode") and not _CODECS.issuperset(str(one).lower() for one in given):
        raise LimitError(f"it calls {name}() for other than UTF-8")  # some are quadratic
    if name == "from_bytes" and given and weight(given[0]) * 8 > _MAX_BITS:
        raise LimitError("its numbers are too large")
    if name == "to_bytes":
        size(max(numbers, default=1))
    if not isinstance(owner, (str, bytes)):
        for value in given:
            compared(value)
        return args
    if name == "replace" and len(args) > 1:
        if isinstance(owner, str):
            _check_replace(owner, *args)
        else:
            size((len(owner) + 1) * (weight(args[1]) + 1))
    elif name == "join" and args:
        args = ([*counted(args[0])],)
        _check_join(owner, args[0])
    elif name in ("center", "ljust", "rjust", "zfill"):
        size(max(numbers, default=0))
    elif name == "expandtabs":
        tabs = owner.count("\t") if isinstance(owner, str) else owner.count(b"\t")
        size(len(owner) + max(numbers, default=8) * tabs)
    elif name in ("split", "rsplit", "splitlines"):
        _check_split(owner, given)
    return args


def _check_split(owner: Any, given: list[Any]) -> None:
    """There are few parts where the text to split at is given; white space may be everywhere."""
    between = next((value for value in given if isinstance(value, (str, bytes)) and value), None)
    size(ITEM * (len(owner) // 2 if between is None else owner.count(between)))
