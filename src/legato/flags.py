"""Command-line flags from the fields of a settings class: ``max_model_len`` is ``--max-model-len``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar, get_args, get_type_hints

Settings = TypeVar("Settings")
UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1024, "mi": 1024**2, "gi": 1024**3}


def size(text: str) -> int:
    """Bytes, from ``2GiB``, ``500MB``, ``1.5g`` or a plain number."""
    found = re.fullmatch(r"([\d.]+)\s*([kmg]i?)?b?", text.strip().lower())
    try:
        assert found is not None
        return int(float(found[1]) * UNITS[found[2] or ""])
    except (AssertionError, ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is not a size such as 2GiB or 500MB"
        ) from None


def add_flags(parser: argparse.ArgumentParser, settings: type, skip: tuple[str, ...] = ()) -> None:
    """A flag for each field. What is not given stays absent: the dataclass has the defaults."""
    hints = get_type_hints(settings)
    for field in fields(settings):
        if field.name in skip:
            continue
        flag = "--" + field.name.replace("_", "-")
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(field)}
        if hints[field.name] is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["type"] = _parser(field, hints[field.name])
            options["choices"] = field.metadata.get("choices")
            options["metavar"] = None if options["choices"] else _metavar(field)
        parser.add_argument(flag, dest=field.name, **options)


def _metavar(field: Field[Any]) -> str:
    return (field.metadata.get("unit") or field.name.rpartition("_")[2]).upper()


def _parser(field: Field[Any], hint: Any) -> Callable[[str], Any]:
    if field.metadata.get("unit") == "bytes":
        return size
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    parser: Callable[[str], Any] = kinds[0]
    return parser


def _help(field: Field[Any]) -> str:
    help: str = field.metadata.get("help", "")
    if field.default in (None, MISSING, ""):
        return help
    return f"{help} (default: {field.default})".replace("%", "%%")


def from_flags(settings: type[Settings], arguments: argparse.Namespace) -> Settings:
    """The settings with what was given on the command line. Raises ConfigError."""
    given = vars(arguments)
    names = [field.name for field in fields(settings)]  # type: ignore[arg-type]
    return settings(**{name: given[name] for name in names if name in given})
